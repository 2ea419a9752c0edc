"""The world in miniature: private RabbitMQ and PostgreSQL, a certificate authority with its DNS, customer servers.

One implementation for `make demo`, the tests and the benches. Every part lives in Linux namespaces that die with
the process which made them (`deploy.lab.cell`), so nothing is left behind, however that process ends.
"""
