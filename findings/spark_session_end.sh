#!/usr/bin/env bash
# Spark 4.3.0's Thrift server, catalog in memory, no metastore, Derby's files in a folder of their own (-Dderby.system.home):
# how long does a client wait for the answer to CloseSession, after one `select 1`?
#
# Expected: some milliseconds; nothing of the session needs a metastore, and opening it and asking take none.
# Found: 21 to 31 s; without that option, 3.6 s. On closing, Hive's SessionState asks for the session's metastore client to
# forget its class loaders, and so has one made, whose handler tries eleven times, two seconds apart (seen in thread dumps).
# With `hive.hmshandler.retry.attempts=0` the answer comes at once. (The setting is in Hive's list,
# cwiki.apache.org/confluence/display/Hive/Configuration+Properties; that the end of a session tries at all is not.)
#
# Needs Java 17. Fails if the first takes less than 15 s, or the second more than 5 s.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ask.py" <<'PY'
import os, socket, subprocess, sys, time
import pyspark
from impala import hiveserver2 as api

HOME = os.path.dirname(pyspark.__file__)
def seconds_to_close(folder, *settings):
    port = 20_000 + os.getpid() % 20_000 + len(settings)
    call = ["bash", f"{HOME}/bin/spark-submit", "--master", "local[1]"]
    call += ["--driver-java-options", f"-Dderby.system.home={folder}"]
    for each in ("spark.sql.catalogImplementation=in-memory", "spark.ui.enabled=false", *settings):
        call += ["--conf", each]
    call += ["--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2", "spark-internal"]
    call += ["--hiveconf", f"hive.server2.thrift.port={port}", "--hiveconf", "hive.server2.thrift.bind.host=127.0.0.1"]
    environment = {**os.environ, "SPARK_HOME": HOME, "SPARK_LOCAL_IP": "127.0.0.1"}
    with open(f"{folder}/log", "ab") as log:
        running = subprocess.Popen(call, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        for _ in range(120):
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                break
            time.sleep(1)
        link = api.get_socket("127.0.0.1", port, False, None, False)
        transport = api.get_transport(link, "127.0.0.1", "hive", "PLAIN", "reader", "x")
        transport.open()
        thrift = api.ThriftClient(api.TBinaryProtocolAccelerated(transport))
        version = api.TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6
        session = thrift.OpenSession(api.TOpenSessionReq(client_protocol=version)).sessionHandle
        asked = thrift.ExecuteStatement(api.TExecuteStatementReq(sessionHandle=session, statement="select 1"))
        thrift.CloseOperation(api.TCloseOperationReq(operationHandle=asked.operationHandle))
        began = time.monotonic()
        thrift.CloseSession(api.TCloseSessionReq(sessionHandle=session))
        return time.monotonic() - began
    finally:
        running.terminate() or running.wait()
took, once = (seconds_to_close(sys.argv[1], *more) for more in ((), ("spark.hadoop.hive.hmshandler.retry.attempts=0",)))
print(f"Spark {pyspark.__version__}: CloseSession answers after {took:.1f} s; without further tries after {once:.1f} s")
assert took > 15 and once < 5
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pyspark==4.3.0" "impyla==0.24.0"
"$work/venv/bin/python" "$work/ask.py" "$work"
echo "as found"
# Output seen:
# Spark 4.3.0: CloseSession answers after 21.6 s; without further tries after 0.2 s
# as found
