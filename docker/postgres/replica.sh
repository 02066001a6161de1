#!/usr/bin/env bash
# Copies the primary named by PRIMARY on the first start, then follows it.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  until pg_basebackup -h "$PRIMARY" -D "$PGDATA" -R -X stream; do
    echo "waiting for $PRIMARY" >&2
    find "$PGDATA" -mindepth 1 -delete
    sleep 1
  done
  chmod 0700 "$PGDATA"
fi
exec postgres -c max_connections=300 -c max_prepared_transactions=300 -c hot_standby_feedback=on
