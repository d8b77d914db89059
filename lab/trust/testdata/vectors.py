# Turns the YAML documents of a test suite into JSON.
import json
import sys

import yaml

with open(sys.argv[1], encoding="utf-8") as f:
    json.dump(list(yaml.safe_load_all(f)), sys.stdout)
