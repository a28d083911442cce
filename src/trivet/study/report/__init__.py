"""The report: one HTML file from a study's results and transcripts."""

from trivet.study.report.render import REPORT, RESULTS, TRANSCRIPTS, render, write_report
from trivet.study.report.transcripts import (
    Transcript,
    read_transcripts,
    transcripts_of,
    write_transcripts,
)

__all__ = [
    "REPORT",
    "RESULTS",
    "TRANSCRIPTS",
    "Transcript",
    "read_transcripts",
    "render",
    "transcripts_of",
    "write_report",
    "write_transcripts",
]
