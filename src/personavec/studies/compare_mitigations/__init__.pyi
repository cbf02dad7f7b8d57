from .pipeline import SMALL as SMALL
from .report import expression as expression
