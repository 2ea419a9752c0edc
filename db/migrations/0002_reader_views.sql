-- What other services may read (DESIGN A.4). Columns are only ever added, at the end.

create view site_ssl as
select s.site_id,
       s.domain,
       s.ssl_status,
       s.ssl_expiry,
       s.job_id,
       j.state as job_state,
       j.attempt,
       case when j.state = 'waiting' then j.retry_at end as retry_at,
       s.error_code,
       s.error_message,
       s.updated_at,
       s.sequence
from site s
left join job j on j.id = s.job_id;

comment on view site_ssl is 'One row per site: what it has (ssl_status, ssl_expiry) and what is being done about it (job_*).';
comment on column site_ssl.site_id is 'The site''s id as the commands name it.';
comment on column site_ssl.domain is 'Primary domain as an A-label; null before the first accepted command.';
comment on column site_ssl.ssl_status is 'none, pending, active or expired; active only from a certificate seen on disk and on the wire.';
comment on column site_ssl.ssl_expiry is 'notAfter of the certificate last seen, UTC; kept when it has expired.';
comment on column site_ssl.job_id is 'The newest job of the site; null without one.';
comment on column site_ssl.job_state is 'queued, running, waiting, succeeded, failed, dead, cancelled or superseded; null without a job.';
comment on column site_ssl.attempt is 'Certbot runs that the newest job has started; waiting for a limit or a lease uses none.';
comment on column site_ssl.retry_at is 'When a waiting job goes on by itself; else null.';
comment on column site_ssl.error_code is 'Why it waits or how it failed, a code of the catalogue; null after a success.';
comment on column site_ssl.error_message is 'The same as a sentence for the site''s owner.';
comment on column site_ssl.updated_at is 'When the row last changed, UTC.';
comment on column site_ssl.sequence is 'The data.sequence of the site''s newest event.';

create view activity_feed as
select id, event_id, event_type, site_id, domain, ssl_status, title, error_code, detail, occurred_at, recorded_at, sequence
from activity;

comment on view activity_feed is 'Every event once. Follow it by id > last: no row ever appears below one that was already visible.';
comment on column activity_feed.id is 'Grows as seen by a reader; use it as the cursor.';
comment on column activity_feed.event_id is 'CloudEvents id of the event; unique.';
comment on column activity_feed.event_type is 'CloudEvents type, for example com.cloudaipilot.ssl.status.changed.v1.';
comment on column activity_feed.site_id is 'The site it is about; null for an operator''s action about no site.';
comment on column activity_feed.domain is 'The site''s primary domain at that time.';
comment on column activity_feed.ssl_status is 'For a status change: the new status.';
comment on column activity_feed.title is 'A sentence that a site owner understands.';
comment on column activity_feed.error_code is 'The code of the event''s error; null without one.';
comment on column activity_feed.detail is 'The event''s data, as published.';
comment on column activity_feed.occurred_at is 'When it happened, UTC.';
comment on column activity_feed.recorded_at is 'When the activity consumer stored it, UTC.';
comment on column activity_feed.sequence is 'data.sequence: 1, 2, 3 … per site without a gap.';

-- Roles belong to the whole cluster: another database's migration may be making it at this moment, and a managed
-- database may not let us. Neither stops the migration; `certpilot doctor` reports a missing reader role.
do $$
begin
    if not exists (select from pg_roles where rolname = 'certpilot_reader') then
        create role certpilot_reader nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
        raise warning 'no right to create the role certpilot_reader; create it and grant select on site_ssl and activity_feed';
end $$;

do $$
begin
    if exists (select from pg_roles where rolname = 'certpilot_reader') then
        grant select on site_ssl, activity_feed to certpilot_reader;
    end if;
end $$;
