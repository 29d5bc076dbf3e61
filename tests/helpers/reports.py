"""What a report holds."""

from __future__ import annotations

import json
import re


def document_of(path):
    text = path.read_text()
    return json.loads(re.search(r'<script id="data" type="application/json">(.*)</script>', text)[1])
