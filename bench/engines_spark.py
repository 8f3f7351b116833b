"""Copy Iceberg tables' rows to Parquet with Apache Spark, in .spark/ alone: engines_spark.py [METADATA COPY]..."""

import sys
from importlib.util import find_spec
from pathlib import Path

from pyspark.sql import SparkSession

found = find_spec("snowpark_connect_deps_iceberg")
assert found and found.origin  # noqa: S101 -- .spark/ is made with it
runtime = next(Path(found.origin).parent.glob("jars/iceberg-spark-runtime-3.5_2.12-*.jar"))
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.jars", str(runtime))
    .config("spark.ui.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
for metadata, copy in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    spark.read.format("iceberg").load(metadata).write.parquet(copy)
