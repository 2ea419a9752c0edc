-- The ledger of the CA's limits (DESIGN B.7): one row per limit and bucket, the arithmetic of workers/core/limits.py.
-- tat is when the bucket is full again; reserved are tokens promised to orders whose fate is not known yet. A reserved
-- token counts as if it were spent now, and moves tat when the order is settled, which is later than at the CA: a
-- bucket that moved at the decision would refill those seconds early.
create table limit_bucket (
    limit_name text not null,
    key text not null,
    tat timestamptz,
    reserved integer not null default 0 check (reserved >= 0),
    primary key (limit_name, key)
);

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

-- Which bucket a waiting job waits for, so that those who wait come one after the other and not all at once.
alter table job add column waits_for_limit text;
create index job_waits_for_limit on job (waits_for_limit) where state = 'waiting' and waits_for_limit is not null;

-- Reserves every bucket that one order needs, or none. Arrays run in parallel, one element a bucket; p_emission is the
-- time in which one token comes back, p_burst a whole bucket's. only_asks: the tokens must be there, but are neither
-- reserved nor spent (failures, which are spent after a failed validation).
-- One row comes back: allowed, or the bucket that frees last and when.
create function reserve_limits(
    p_limit_names text[], p_keys text[], p_costs integer[], p_only_asks boolean[],
    p_emission interval[], p_burst interval[]
) returns table (allowed boolean, refused_limit text, refused_key text, free_at timestamptz) language plpgsql as
$$
declare
    v_now timestamptz := certpilot_now();
begin
    insert into limit_bucket (limit_name, key)
    select n, k from unnest(p_limit_names, p_keys) as u(n, k) order by n, k on conflict do nothing;
    perform 1 from limit_bucket b join unnest(p_limit_names, p_keys) as u(n, k) on b.limit_name = u.n and b.key = u.k
    order by b.limit_name, b.key for update of b;

    select false, s.limit_name, s.key, s.at into allowed, refused_limit, refused_key, free_at
    from (
        select b.limit_name, b.key,
               greatest(coalesce(b.tat, v_now), v_now) + u.emission * (b.reserved + u.cost) - u.burst as at
        from limit_bucket b
        join unnest(p_limit_names, p_keys, p_costs, p_emission, p_burst) as u(n, k, cost, emission, burst)
          on b.limit_name = u.n and b.key = u.k
    ) s
    where s.at > v_now
    order by s.at desc limit 1;
    if not found then
        update limit_bucket b set reserved = reserved + u.cost
        from unnest(p_limit_names, p_keys, p_costs, p_only_asks) as u(n, k, cost, only_asks)
        where b.limit_name = u.n and b.key = u.k and not u.only_asks;
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
    v_now timestamptz := certpilot_now();
begin
    perform 1 from limit_bucket b join unnest(p_limit_names, p_keys) as u(n, k) on b.limit_name = u.n and b.key = u.k
    order by b.limit_name, b.key for update of b;
    update limit_bucket b
    set reserved = greatest(reserved - u.cost, 0),
        tat = case when u.spent then greatest(coalesce(b.tat, v_now), v_now) + u.emission * u.cost else b.tat end
    from unnest(p_limit_names, p_keys, p_costs, p_spent, p_emission) as u(n, k, cost, spent, emission)
    where b.limit_name = u.n and b.key = u.k;
end
$$;
