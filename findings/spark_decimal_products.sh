#!/usr/bin/env bash
# Spark 4.3.0 with ANSI on, as it is by default: what does the product of two small decimals give?
#
# Expected: 1E-20, or an error: with ANSI on, what does not fit is an error, and each value alone is exact.
# Found: 0.000000. The type of the product, decimal(38, 6), is found by giving up decimal places, and what they held is
# rounded away without a word: 100 million such rows sum to nothing. Only sums and casts that are too large are errors.
# With `spark.sql.decimalOperations.allowPrecisionLoss=false` the product is decimal(38, 38): exact here, and an error
# where its integer part needs room. That setting is on its own, and no part of ANSI
# (spark.apache.org/docs/4.3.0/sql-ref-ansi-compliance.html; configuration.html#runtime-sql-configuration).
#
# Needs Java 17. Fails if the first is anything but zero, or the second anything but exact.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ask.py" <<'PY'
from decimal import Decimal

from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
SMALL = "cast('0.0000000001' as decimal(38, 20))"
LARGE = "cast('123456789.5' as decimal(38, 18))"


def answer(query: str) -> str:
    try:
        return str(spark.sql(query).collect()[0][0])
    except Exception as error:
        return str(error).partition("]")[0].lstrip("[")


found = {}
for loss in ("true", "false"):
    spark.sql(f"set spark.sql.decimalOperations.allowPrecisionLoss={loss}")
    for name, value in (("small", SMALL), ("large", LARGE)):
        found[name, loss] = answer(f"select {value} * {value}")
        print(f"Spark {spark.version}, ANSI {spark.conf.get('spark.sql.ansi.enabled')}, loss {loss}: {name} {found[name, loss]}")
assert Decimal(found["small", "true"]) == 0, found
assert Decimal(found["small", "false"]) == Decimal("1E-20"), found
assert found["large", "false"].startswith("NUMERIC_VALUE_OUT_OF_RANGE"), found
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pyspark==4.3.0"
SPARK_LOCAL_IP=127.0.0.1 "$work/venv/bin/python" "$work/ask.py" 2>"$work/log" || { cat "$work/log"; exit 1; }
echo "as found"
# Output seen:
# Spark 4.3.0, ANSI true, loss true: small 0.000000
# Spark 4.3.0, ANSI true, loss true: large 15241578873647310.250000
# Spark 4.3.0, ANSI true, loss false: small 1.000000000000000000E-20
# Spark 4.3.0, ANSI true, loss false: large NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION
# as found
