-- Whether a lease has ended. They last seconds; one that has longer to go than any was ever granted was written before the clock was set back;
-- its holder may be dead, and nothing would go on for as long as the clock went back. Safety does not hang on it: a lease may
-- end at any instant (docs/architecture.md, leases).
create function lease_over(expires_at timestamptz) returns boolean language sql volatile as
$$ select expires_at <= clock_timestamp() or expires_at > clock_timestamp() + interval '2 minutes' $$;
