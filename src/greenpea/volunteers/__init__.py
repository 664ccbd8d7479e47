"""Combining volunteers: from who said what to what a subject is, and to what each volunteer's word is worth.

`replies` turns classifications into integer arrays, one `Replies` per question. Each method is a module with the
same function, ``combine(replies, …) → Consensus``: `counts`, `consistency`, `dawid_skene`, `swap`. `effective`
turns weights by volunteer into votes with effective counts beside the raw ones.
"""

from greenpea.volunteers import consistency, counts, dawid_skene, swap
from greenpea.volunteers.consensus import Consensus, effective
from greenpea.volunteers.replies import Replies, replies

__all__ = ["Consensus", "Replies", "consistency", "counts", "dawid_skene", "effective", "replies", "swap"]
