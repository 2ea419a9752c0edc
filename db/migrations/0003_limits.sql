-- Reserves every bucket that one order spends, or none (DESIGN B.7), by the generic cell rate algorithm as the CA
-- runs it. Arrays run in parallel: one element a bucket. emission_seconds is the time in which one token comes back,
-- burst_seconds the whole bucket's (tokens times emission).
-- Returns one row: allowed, and when refused the bucket that frees last and when it does.
create function reserve_limits(
    p_limit_names text[], p_keys text[], p_costs integer[], p_only_asks boolean[],
    p_emission_seconds double precision[], p_burst_seconds double precision[]
) returns table (allowed boolean, refused_limit text, refused_key text, retry_at timestamptz) language plpgsql as
$$
declare
    v_now timestamptz := certpilot_now();
begin
    insert into limit_bucket (limit_name, key, tat)
    select n, k, v_now from unnest(p_limit_names, p_keys) as u(n, k)
    order by n, k on conflict do nothing;
    perform 1 from limit_bucket b join unnest(p_limit_names, p_keys) as u(n, k) on b.limit_name = u.n and b.key = u.k
    order by b.limit_name, b.key for update of b;

    select false, s.limit_name, s.key, s.free_at into allowed, refused_limit, refused_key, retry_at
    from (
        select b.limit_name, b.key,
               greatest(b.tat, v_now) + make_interval(secs => u.cost * u.emission - u.burst) as free_at
        from limit_bucket b
        join unnest(p_limit_names, p_keys, p_costs, p_emission_seconds, p_burst_seconds) as u(n, k, cost, emission, burst)
          on b.limit_name = u.n and b.key = u.k
    ) s
    where s.free_at > v_now
    order by s.free_at desc limit 1;
    if found then
        return next;
        return;
    end if;

    -- Failures are only asked about before an order, and spent after a failed validation.
    update limit_bucket b set tat = greatest(b.tat, v_now) + make_interval(secs => u.cost * u.emission)
    from unnest(p_limit_names, p_keys, p_costs, p_only_asks, p_emission_seconds) as u(n, k, cost, only_asks, emission)
    where b.limit_name = u.n and b.key = u.k and not u.only_asks;
    allowed := true;
    return next;
end
$$;
