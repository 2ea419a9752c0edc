"""The only SQL of the project: one module per table, migrations beside them.

Every function takes an open connection; its caller owns the transaction (`db.pool.transaction`). Lock order in every
transaction: lease rows (sorted), job, site (PROTOCOL 1).
"""
