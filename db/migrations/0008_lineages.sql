-- Which certificates certpilot has put on which servers: what a site leaves behind when it moves, and what a removal owes.
create table lineage (
    site_id text not null references site,
    server_key text not null,
    -- what certbot calls it: the domain that the site had
    cert_name text not null,
    names text[] not null check (cardinality(names) > 0),
    server_host text not null,
    server_port integer not null,
    server_username text not null,
    server_host_key text,
    server_public_addresses text[] not null default '{}',
    primary key (site_id, server_key, cert_name)
);

insert into lineage
select distinct on (j.site_id, j.server_key, j.domain)
       j.site_id, j.server_key, j.domain, j.names, j.server_host, j.server_port, j.server_username, j.server_host_key,
       j.server_public_addresses
from job j
where j.state = 'succeeded' and j.kind in ('issue', 'renew')
  and not exists (select from job r
                  where r.site_id = j.site_id and r.server_key = j.server_key and r.domain = j.domain
                    and r.state = 'succeeded' and r.kind in ('remove', 'cleanup') and r.created_at > j.created_at)
order by j.site_id, j.server_key, j.domain, j.created_at desc;
