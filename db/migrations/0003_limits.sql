-- The ledger of the CA's limits (DESIGN B.7): one row per limit and bucket, the arithmetic of workers/core/limits/buckets.py.
-- tat is when the bucket is full again; reserved are tokens promised to orders whose fate is not known yet. A reserved
-- token counts as if it were spent now, and moves tat when the order is settled, which is later than at the CA: a
-- bucket that moved at the decision would refill those seconds early.
create table limit_bucket (
    limit_name text not null,
    key text collate "C" not null,  -- found by its beginning when a server's account becomes known
    tat timestamptz not null default certpilot_now(),
    reserved integer not null default 0 check (reserved >= 0),
    primary key (limit_name, key)
);
create index limit_bucket_idle on limit_bucket (tat) where reserved = 0;

-- Who waits for which bucket (workers/core/limits/waiting_line.py): turn_at is the time promised to the job, in all of its
-- buckets the same; place is the first such promise and orders those who wait.
create table limit_wait (
    job_id uuid not null references job,
    limit_name text not null,
    key text collate "C" not null,
    place timestamptz not null,
    turn_at timestamptz not null,
    primary key (job_id, limit_name, key)
);
create index limit_wait_line on limit_wait (limit_name, key, turn_at);

-- Which exact name sets were issued when: an order for a set issued within 120 days is a renewal for the CA.
create table issued_set (
    directory_url text not null,
    set_hash text not null,
    issued_at timestamptz not null,
    primary key (directory_url, set_hash)
);

-- The ACME account of each server, once known: account limits are per account, and until then per server.
create table server_account (
    server_key text not null,
    directory_url text not null,
    account text not null,
    primary key (server_key, directory_url)
);

-- The bucket that makes a waiting job wait, for people; null where it waits for something else.
alter table job add column waits_for_limit text;

-- A job that ends, or waits for something else than a limit, leaves its lines, whoever wrote that.
create function leave_lines() returns trigger language plpgsql as
$$ begin delete from limit_wait where job_id = new.id; return null; end $$;
create trigger job_leaves_lines after update of state on job for each row
when (old.waits_for_limit is not null
      and (new.finished_at is not null or (new.state = 'waiting' and new.waits_for_limit is null)))
execute function leave_lines();

-- Makes the rows that are missing and locks all of them, always in the same order: no two transactions wait for each other.
create function lock_limits(p_limit_names text[], p_keys text[]) returns void language plpgsql as
$$
declare
    v_locked integer;
begin
    loop
        insert into limit_bucket (limit_name, key)
        select distinct n, k collate "C" from unnest(p_limit_names, p_keys) as u(n, k) order by 1, 2
        on conflict do nothing;
        perform 1 from limit_bucket b
        join unnest(p_limit_names, p_keys) as u(n, k) on b.limit_name = u.n and b.key = u.k
        order by b.limit_name, b.key for update of b;
        get diagnostics v_locked = row_count;
        -- a full bucket's row can be pruned between the two
        exit when v_locked = cardinality(p_keys);
    end loop;
end
$$;

-- Reserves every bucket that one order of a job needs, or none. Arrays run in parallel, one element a bucket; p_emission
-- is the time in which one token comes back, p_burst a whole bucket's. only_asks: the tokens must be there, but are
-- neither reserved nor spent (failures, which are spent after a failed validation). What is promised to jobs ahead of
-- this one is left to them: for p_kept after their turn, and before it as far as their tokens would be missing then.
-- One row comes back: allowed, or the bucket that frees last and when, if nobody else comes.
create function reserve_limits(
    p_job uuid, p_limit_names text[], p_keys text[], p_costs integer[], p_only_asks boolean[],
    p_emission interval[], p_burst interval[], p_kept interval
) returns table (allowed boolean, refused_limit text, refused_key text, free_at timestamptz) language plpgsql as
$$
declare
    v_now timestamptz;
    v_place timestamptz;
begin
    perform lock_limits(coalesce(array_agg(n), '{}'), coalesce(array_agg(k), '{}'))
    from unnest(p_limit_names, p_keys, p_only_asks) as u(n, k, only_asks) where not only_asks;
    v_now := certpilot_now();
    v_place := coalesce((select min(place) from limit_wait where job_id = p_job), 'infinity');

    with wanted as (
        select u.*, greatest(b.tat, v_now) + u.emission * (coalesce(b.reserved, 0) + u.cost) - u.burst as at
        from unnest(p_limit_names, p_keys, p_costs, p_only_asks, p_emission, p_burst)
               as u(n, k, cost, only_asks, emission, burst)
        -- only those that are taken from have been locked, and made where they were missing
        left join limit_bucket b on b.limit_name = u.n and b.key = u.k
    ), ahead as (
        select w.n, w.k, l.turn_at, row_number() over (partition by w.n, w.k order by l.turn_at) as number
        from wanted w
        join limit_wait l on l.limit_name = w.n and l.key = w.k
         -- a bucket is full again after its burst: what is promised later is not touched by a token taken now
         and l.turn_at > v_now - p_kept and l.turn_at < v_now + w.burst
        where not w.only_asks and l.job_id <> p_job and l.place < v_place
    ), waits as (
        select w.n, w.k, w.at + w.emission * (
                   select count(*) from ahead a where a.n = w.n and a.k = w.k and a.turn_at <= v_now) as at
        from wanted w
        union all
        select w.n, w.k, v_now + (w.at + w.emission * a.number - a.turn_at)
        from wanted w join ahead a on a.n = w.n and a.k = w.k where a.turn_at > v_now
    )
    select false, s.n, s.k, s.at into allowed, refused_limit, refused_key, free_at
    from waits s where s.at > v_now order by s.at desc limit 1;
    if not found then
        update limit_bucket b set reserved = reserved + u.cost
        from unnest(p_limit_names, p_keys, p_costs, p_only_asks) as u(n, k, cost, only_asks)
        where b.limit_name = u.n and b.key = u.k and not u.only_asks;
        delete from limit_wait where job_id = p_job;
        allowed := true;
    end if;
    return next;
end
$$;

-- Ends reservations once their fate is known; p_spent: the CA took the tokens (in doubt it did).
create function settle_limits(
    p_limit_names text[], p_keys text[], p_costs integer[], p_spent boolean[], p_emission interval[]
) returns void language plpgsql as
$$
declare
    v_now timestamptz;
begin
    perform lock_limits(p_limit_names, p_keys);
    v_now := certpilot_now();
    update limit_bucket b
    set reserved = greatest(reserved - u.cost, 0),
        tat = case when u.spent then greatest(b.tat, v_now) + u.emission * u.cost else b.tat end
    from unnest(p_limit_names, p_keys, p_costs, p_spent, p_emission) as u(n, k, cost, spent, emission)
    where b.limit_name = u.n and b.key = u.k;
end
$$;

-- Takes tokens that were not reserved: failed validations.
create function spend_limits(p_limit_names text[], p_keys text[], p_costs integer[], p_emission interval[])
returns void language plpgsql as
$$
declare
    v_now timestamptz;
begin
    perform lock_limits(p_limit_names, p_keys);
    v_now := certpilot_now();
    update limit_bucket b set tat = greatest(b.tat, v_now) + u.emission * u.cost
    from unnest(p_limit_names, p_keys, p_costs, p_emission) as u(n, k, cost, emission)
    where b.limit_name = u.n and b.key = u.k;
end
$$;

-- Moves what one payer spent, reserved and waits for to another: p_from is the beginning of its keys (they end there or
-- go on with '|'), until now a server's, and p_to the account's.
create function move_limits(p_limit_names text[], p_from text, p_to text) returns void language plpgsql as
$$
declare
    v_now timestamptz := certpilot_now();
begin
    with moved as (
        delete from limit_bucket
        where limit_name = any(p_limit_names) and key >= p_from and key < p_from || '}'
          and (key = p_from or starts_with(key, p_from || '|'))
        returning limit_name, p_to || substr(key, length(p_from) + 1) as key, tat, reserved
    )
    insert into limit_bucket as b (limit_name, key, tat, reserved) select * from moved order by 1, 2
    on conflict (limit_name, key) do update
    set reserved = b.reserved + excluded.reserved,
        tat = greatest(b.tat, v_now) + greatest(excluded.tat - v_now, interval '0');
    with moved as (
        delete from limit_wait
        where limit_name = any(p_limit_names) and key >= p_from and key < p_from || '}'
          and (key = p_from or starts_with(key, p_from || '|'))
        returning job_id, limit_name, p_to || substr(key, length(p_from) + 1) as key, place, turn_at
    )
    insert into limit_wait (job_id, limit_name, key, place, turn_at) select * from moved on conflict do nothing;
end
$$;
