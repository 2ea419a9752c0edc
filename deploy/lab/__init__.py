"""The world in miniature: private RabbitMQ and PostgreSQL, a certificate authority with its DNS, customer servers.

One implementation for `make demo`, the tests and the benches. Every part lives in Linux namespaces that die with the
process which made them (`cell`), so nothing is left behind, however that process ends. It needs Linux and root;
`bootstrap.sh` installs the rest.

`lab.Lab` is all of it. Its parts, usable alone: `rabbitmq`, `rabbitmq_cluster`, `postgres`; `network`, and in it `ca`
(Pebble behind `acme_proxy`, which keeps the limits of `ca_limits`), `dns`, `server` (with `nginx`); `tcp_proxy` for
faults on the way to any of them.
"""
