-- Certificates never lapse: when each site is looked at and renewed, what puts it at risk, and removals.

alter table site
    -- When certpilot renews by itself what the server has not (core.lifetime.renewal.due_at), by certpilot_now().
    add column renewal_due_at timestamptz,
    -- When the watch looks next at what visitors are shown, by certpilot_now(); null: never.
    add column next_check_at timestamptz,
    -- Why the certificate may lapse; the same as in the last ssl.certificate.at_risk, null when that had no error.
    add column at_risk_code text,
    add column at_risk_message text,
    -- Looks in a row at which the server showed something else than the certificate last known, or nothing.
    add column looks_wrong integer not null default 0,
    -- Looks in a row that found the certificate gone from its server; the second one ends `active`.
    add column looks_gone integer not null default 0;
-- Each holds only what may become due, so that a tick with nothing due is one probe.
create index site_check_due on site (next_check_at) where next_check_at is not null;
create index site_renewal_due on site (renewal_due_at) where renewal_due_at is not null;

-- remove: take the lineage off the site's server. cleanup: the same on a server that the site has left; its site's
-- newest job is another one.
alter table job drop constraint job_kind_check;
alter table job add constraint job_kind_check check (kind in ('issue', 'renew', 'remove', 'cleanup'));
alter table job add column revoke boolean not null default false;
-- How many renewals of our own are under way; few at any time.
create index job_own on job (state) where command_id is null and state in ('queued', 'running');

-- Sites that were active before the watch existed are looked at in the course of the first day, so that it finds out
-- when each has to be renewed; spread, or all of them would be due in one moment.
update site set next_check_at = certpilot_now() + random() * interval '1 day' where ssl_status = 'active';

create or replace view site_ssl as
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
       s.sequence,
       s.renewal_due_at,
       s.next_check_at,
       s.at_risk_code
from site s
left join job j on j.id = s.job_id;

comment on column site_ssl.error_code is 'Why it waits, how it last failed, or what is left to be mended beside a certificate that is served; a code of the catalogue.';
comment on column site_ssl.renewal_due_at is 'When certpilot renews by itself, should the server not have done it by then; null where nothing is to be renewed.';
comment on column site_ssl.next_check_at is 'When what visitors are shown is looked at next; null where it is not watched.';
comment on column site_ssl.at_risk_code is 'Why the certificate may lapse; null while nothing is known that stands in the way of its renewal.';
