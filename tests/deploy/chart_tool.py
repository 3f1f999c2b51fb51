"""Helm's own engine, for the tests of the chart: run by its Python, as JSON in and out.

`python chart_tool.py CHART VALUES...`: lints and renders the chart with each file of values. In an
environment of its own, since the library that holds Helm has 240 MB.
"""

import json
import sys
from pathlib import Path

import helm_python

chart, *files = map(Path, sys.argv[1:])
made = {}
for file in files:
    values = helm_python.values_from_yaml(file.read_text())
    said = {"lint": helm_python.lint(chart, values, strict=True), "error": None, "files": {}}
    try:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(values)
            said["files"] = loaded.render(values, name="printworks", namespace="images")
    except helm_python.HelmError as error:
        said["error"] = str(error)
    made[file.name] = said
print(json.dumps(made))
