#!/usr/bin/env bash
# Runs once, when a primary's data directory is made: lets the replica in, and gives the role one stored secret.
#
# SCRAM keys of a login are passed through to the shards, so a role's verifier must be the same on all of them.
# Setting a password on each shard would draw a salt on each. This verifier is that of the password "gavel".
set -euo pipefail
echo "host replication all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
if [ "$POSTGRES_PASSWORD" = gavel ]; then
  verifier='SCRAM-SHA-256$4096:Z2F2ZWwtZGVtby1zYWx0IQ==$3UilVOdgEQmwanDjPi3XuBKK4W+17iH2/0E9ass8Oh4=:8z8mLqxF6AX1Zuh47EMOpXOcfCWHffDunU5jme7qLJI='
  psql -v ON_ERROR_STOP=1 -U postgres -d postgres -c "ALTER ROLE postgres PASSWORD '$verifier'"
fi
