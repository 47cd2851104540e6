#!/usr/bin/env bash
# MLflow 3.17: a SQLite tracking store is made on first use, migration after migration, for seconds. A process that ends
# meanwhile (Ctrl-C, a kill, a power cut) leaves a file that every later start refuses, because a migration's tables are
# there one by one and not noted until it is through. One guesses that a migration is a transaction, or is gone on with
# at the next start; in truth the file must be deleted by hand. Cure: make the store in a file beside, and give it its
# name when it is whole.
#
# Seen: the first start killed one statement after CREATE TABLE mcp_servers; the second and the third start end with
# "(sqlite3.OperationalError) table mcp_servers already exists". Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlflow==3.17.2'
cat > "$work/first.py" <<'PYTHON'
import os
import signal
import sys

import mlflow
from sqlalchemy import Engine, event

seen = []


@event.listens_for(Engine, "before_cursor_execute")
def die_after_the_table(connection, cursor, statement, *_):
    if seen:
        os.kill(os.getpid(), signal.SIGKILL)
    if "CREATE TABLE mcp_servers" in statement:
        seen.append(statement)


mlflow.MlflowClient(sys.argv[1]).search_experiments(max_results=1)
PYTHON
export MLFLOW_DISABLE_TELEMETRY=true
cd "$work"
store="sqlite:///$work/mlflow.db"
status=0
"$work/venv/bin/python" first.py "$store" 2> first.log || status=$?
echo "the first start ended with status $status"
test "$status" = 137
for start in second third; do
    status=0
    "$work/venv/bin/python" -c 'import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()' "$store" \
        2> again.log || status=$?
    echo "the $start start ended with status $status: $(grep -m 1 'already exists' again.log)"
    test "$status" != 0
done
