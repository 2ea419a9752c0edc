-- How fast certpilot begins the renewals that are due (core.lifetime.pacing): one row, so that any number of schedulers keep one pace.
create table renewal_pace (
    one_row boolean primary key default true check (one_row),
    -- Renewals an hour, as last measured.
    per_hour double precision not null default 0,
    -- When it was measured; by certpilot_now().
    measured_at timestamptz not null default 'epoch',
    -- What was begun so far is within the pace from then on; by certpilot_now().
    paced_until timestamptz not null default 'epoch'
);
insert into renewal_pace default values;
