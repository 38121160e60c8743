from dataclasses import dataclass
from typing import Any
@dataclass
class Report:
    settings: Any; points: Any; finals: Any; importances: Any; seconds: float
def write_report(report, where, draw=True):
    where.mkdir(parents=True, exist_ok=True); (where/"report.md").write_text(repr(report)); return [where/"report.md"]
