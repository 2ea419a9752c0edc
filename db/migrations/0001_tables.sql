-- The clock of run_at, limits, retries and renewals: real time plus an offset that only tests move.
-- Leases, certificates and TLS use clock_timestamp() itself.
create table clock (
    only_row boolean primary key default true check (only_row),
    ahead_by interval not null default interval '0'
);
insert into clock default values;

-- STABLE although clock_timestamp() moves: a volatile function could not be the bound of an index scan,
-- and one statement needs one instant.
create function certpilot_now() returns timestamptz language sql stable parallel restricted as
$$ select clock_timestamp() + ahead_by from clock $$;

create table site (
    site_id text primary key,
    domain text,
    aliases text[] not null default '{}',
    server_host text,
    server_port integer,
    server_username text,
    server_host_key text,
    server_public_addresses text[] not null default '{}',
    ssl_status text not null default 'none' check (ssl_status in ('none', 'pending', 'active', 'expired')),
    ssl_expiry timestamptz,
    certificate_serial text,
    certificate_names text[],
    certificate_issuer text,
    certificate_not_before timestamptz,
    certificate_server_key text,
    ever_issued boolean not null default false,
    job_id uuid,
    error_code text,
    error_message text,
    sequence bigint not null default 0,
    updated_at timestamptz not null default certpilot_now(),
    -- active is only ever set from a certificate (DESIGN A.3)
    check (ssl_status <> 'active' or (ssl_expiry is not null and certificate_serial is not null))
);
create index site_expiry on site (ssl_expiry) where ssl_status = 'active';
create index site_server on site (server_host);

create table job (
    id uuid primary key,
    site_id text not null references site,
    kind text not null check (kind in ('issue', 'renew')),
    state text not null check (state in
        ('queued', 'running', 'waiting', 'succeeded', 'failed', 'dead', 'cancelled', 'superseded')),
    epoch integer not null default 1,
    domain text not null,
    names text[] not null check (cardinality(names) > 0),
    server_host text not null,
    server_port integer not null,
    server_username text not null,
    server_host_key text,
    server_public_addresses text[] not null default '{}',
    server_key text not null,
    force boolean not null default false,
    command_id text,
    command_source text,
    requested_by text,
    fence bigint not null default 0,
    attempt integer not null default 0,
    attempt_open boolean not null default false,
    fails integer not null default 0,
    failing_since timestamptz,
    crashes integer not null default 0,
    serial_before text,
    superseded_by uuid,
    cancel_requested boolean not null default false,
    run_at timestamptz,
    retry_at timestamptz,
    error_code text,
    error_message text,
    because text,
    created_at timestamptz not null default certpilot_now(),
    -- when it was made or last replayed: the CA has 30 days from here
    admitted_at timestamptz not null default certpilot_now(),
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz not null default certpilot_now(),
    check ((finished_at is not null) = (state in ('succeeded', 'failed', 'dead', 'cancelled', 'superseded'))),
    -- the scheduler finds a waiting or queued job by its run_at and nothing else
    check (state not in ('queued', 'waiting') or run_at is not null),
    -- PROTOCOL 7: no job becomes dead, or anything final, with an open attempt
    check (not attempt_open or finished_at is null)
);
create index job_due on job (run_at) where state = 'waiting';
create index job_queued on job (run_at) where state = 'queued';
create index job_running on job (server_key) where state = 'running';
create index job_queued_server on job (server_key, created_at) where state = 'queued';
create index job_names_queued on job using gin (names) where state = 'queued';
create index job_site on job (site_id, created_at);
-- PROTOCOL 4.6: a job is claimable only while no other one with a shared name runs or has an open attempt
create index job_names_busy on job using gin (names) where state = 'running' or attempt_open;
create index job_dead on job (finished_at) where state = 'dead';

alter table site add foreign key (job_id) references job deferrable initially deferred;

create table job_attempt (
    job_id uuid not null references job,
    attempt integer not null,
    fence bigint not null,
    opened_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    -- whether the attempt reserved a CA order (an attempt that only installs does not)
    orders boolean not null default true,
    -- what the server was told to run: whoever takes the job over sends the very same START
    spec jsonb not null,
    -- the ledger's buckets that were spent, to be given back where no order was made
    spends jsonb not null default '[]',
    result text,
    error_code text,
    exit_code integer,
    evidence text,
    primary key (job_id, attempt)
);

-- Rows are never deleted: a fence must not restart (PROTOCOL 5 o).
create table lease (
    key text primary key,
    owner uuid,
    fence bigint not null default 0,
    expires_at timestamptz not null default '-infinity'
);

create table inbox (
    source text not null,
    command_id text not null,
    body_hash text not null,
    received_at timestamptz not null default certpilot_now(),
    primary key (source, command_id)
);
create index inbox_age on inbox (received_at);

-- One DUPLICATE_ID rejection per other body under a taken id (DESIGN A.1).
create table inbox_conflict (
    source text not null,
    command_id text not null,
    body_hash text not null,
    received_at timestamptz not null default certpilot_now(),
    primary key (source, command_id, body_hash)
);

create table outbox (
    seq bigint generated always as identity primary key,
    lane text not null check (lane in ('event', 'job', 'letter')),
    exchange text not null,
    routing_key text not null,
    message_id text not null,
    content_type text not null,
    headers jsonb not null default '{}',
    body bytea not null,
    created_at timestamptz not null default clock_timestamp(),
    published_at timestamptz
);
create index outbox_unpublished on outbox (lane, seq) where published_at is null;
create index outbox_age on outbox (published_at) where published_at is not null;

create function outbox_wake() returns trigger language plpgsql as
$$ begin notify certpilot_outbox; return null; end $$;
-- Per statement: PostgreSQL folds equal notifications of one transaction into one.
create trigger outbox_wake after insert on outbox for each statement execute function outbox_wake();

create table activity (
    id bigint generated always as identity primary key,
    event_id text not null unique,
    event_type text not null,
    site_id text,
    domain text,
    ssl_status text,
    title text not null,
    error_code text,
    detail jsonb not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp(),
    sequence bigint
);
create index activity_site on activity (site_id, id);

create function activity_wake() returns trigger language plpgsql as
$$ begin notify certpilot_activity; return null; end $$;
create trigger activity_wake after insert on activity for each statement execute function activity_wake();

create table pause (
    scope text primary key,  -- '*' or a server's host
    paused_by text not null,
    reason text,
    paused_at timestamptz not null default certpilot_now()
);

-- How often the process died that had taken this message, counted before the message is looked into (DESIGN A.9).
create table delivery_crash (
    queue text not null,
    body_hash text not null,
    starts integer not null default 0,
    last_at timestamptz not null default clock_timestamp(),
    primary key (queue, body_hash)
);

-- A copy of every letter that a person discarded.
create table discarded_letter (
    id bigint generated always as identity primary key,
    letter_id text not null,
    queue text not null,
    code text,
    reason text,
    headers jsonb not null default '{}',
    body bytea not null,
    discarded_by text not null,
    discarded_at timestamptz not null default certpilot_now()
);
