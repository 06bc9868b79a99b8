"""Results as pages to look at: one self-contained HTML file each, for a leaderboard and for a run."""

from fusion_eval.report.page.board_page import leaderboard_page
from fusion_eval.report.page.files import write_leaderboard_page, write_report_page
from fusion_eval.report.page.run_page import report_page

__all__ = ["leaderboard_page", "report_page", "write_leaderboard_page", "write_report_page"]
