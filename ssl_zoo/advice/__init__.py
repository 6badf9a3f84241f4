"""Advice on own data: is training worth it, or does a frozen network suffice?"""

from ssl_zoo.advice.api import Advisor, open_advisor, resume_advisor
from ssl_zoo.advice.plan import Plan
from ssl_zoo.advice.result import Advice, AdviceRow
from ssl_zoo.advice.verdict import Verdict

__all__ = ["Advice", "AdviceRow", "Advisor", "Plan", "Verdict", "open_advisor", "resume_advisor"]
