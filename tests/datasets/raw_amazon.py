"""Raw Amazon files in the true formats of the three releases, small enough to work out by hand.

Every oddity is there: HTML in texts, missing and doubled fields, pictures under every name, Python
literals, records twice, reviews twice, equal times, broken lines, items without metadata.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

# user, item, rating, day; the 2-core of it, without repeats, is worked out in test_prepare_amazon.
REVIEWS = [
    ("A1", "B1", 5.0, 10),
    ("A1", "B2", 4.0, 9),
    ("A1", "B3", 3.0, 9),  # as B2 at one time: B2 goes first
    ("A2", "B2", 2.0, 5),
    ("A2", "B1", 1.0, 7),
    ("A2", "B1", 5.0, 6),  # again, and earlier: this one stays
    ("A3", "B3", 4.0, 3),
    ("A3", "B2", 4.0, 3),
    ("A3", "B3", 2.0, 3),  # again at the same time: the higher rating stays
    ("A4", "B4", 5.0, 1),  # neither has a second one
    ("A5", "B5", 5.0, 2),
    ("A5", "B1", 3.0, 4),  # goes with B5, and leaves A5 with one
]
DAY = 86_400
CORE_2 = [
    ("A1", "B2", 4, 9), ("A1", "B3", 3, 9), ("A1", "B1", 5, 10),
    ("A2", "B2", 2, 5), ("A2", "B1", 5, 6),
    ("A3", "B2", 4, 3), ("A3", "B3", 4, 3),
]  # fmt: skip
BROKEN = ['{"reviewerID": "A9", "asin": "B9", "overall"', "not JSON at all", '["a list"]']


def lines_2014() -> list[str]:
    """Reviews of 2014: JSON, days in seconds."""
    return [
        json.dumps(
            {
                "reviewerID": user, "asin": item, "reviewerName": 'J. "JJ" Doe', "helpful": [0, 0],
                "reviewText": "Böse \u2028 {\"}\" \\ text", "overall": rating, "summary": "x",
                "unixReviewTime": day * DAY, "reviewTime": "02 28, 2014",
            },
            ensure_ascii=False,
        )
        for user, item, rating, day in REVIEWS
    ]  # fmt: skip


def lines_2018() -> list[str]:
    """Reviews of 2018: more fields, some nested, some missing."""
    lines = []
    for place, (user, item, rating, day) in enumerate(REVIEWS):
        record = {
            "overall": rating, "verified": True, "reviewTime": "02 28, 2014", "reviewerID": user,
            "asin": item, "style": {"Color:": " Red", "Size:": " 2\""}, "reviewerName": "x",
            "reviewText": "tab\tand\nline", "summary": "\u00e9", "unixReviewTime": day * DAY,
            "vote": "1,234", "image": ["https://x/1.jpg"],
        }  # fmt: skip
        for missing in ("style", "vote", "image", "reviewText")[: place % 5]:
            del record[missing]
        lines.append(json.dumps(record))
    return lines


def lines_2023() -> list[str]:
    """Reviews of 2023: other names, milliseconds, the variant's `asin` beside `parent_asin`."""
    return [
        json.dumps(
            {
                "rating": rating, "title": "t", "text": "x", "images": [{"hi_res": None}],
                "asin": f"{item}V", "parent_asin": item, "user_id": user,
                "timestamp": day * DAY * 1000 + 7, "helpful_vote": 0, "verified_purchase": True,
            }
        )
        for user, item, rating, day in REVIEWS
    ]  # fmt: skip


def metadata_2014() -> list[str]:
    """Python literals: single quotes, True, nested categories, one line in JSON."""
    return [
        "{'asin': 'B1', 'title': 'Strings &amp; <b>Things</b>', 'price': 12.5, 'imUrl': "
        "'http://ecx.images-amazon.com/images/I/1.jpg', 'brand': \"O'Neill\", 'categories': "
        "[['Musical Instruments', 'Guitars'], ['Musical Instruments', 'Bass & More']], "
        "'salesRank': {'Musical Instruments': 94593}, 'related': {'also_bought': ['B2']}}",
        "{'asin': 'B2', 'description': 'A\\ttab,\\na line\\x07 and 6\" of wood', 'categories': "
        "[['Drums']], 'title': None}",
        '{"asin": "B3", "title": "NA", "description": ""}',
        "{'asin': 'B1', 'title': 'Strings'}",  # again, with less
        "{'asin': 'B4', 'title': 'open",  # broken
        "{'title': 'no asin'}",
    ]


def metadata_2018() -> list[str]:
    """JSON: texts as lists, prices as text, pictures in two lists, style sheets and scripts."""
    records = [
        {
            "category": ["Musical Instruments", "Guitars", "<span>Bass &amp; More</span>"],
            "description": ["First\u00a0part.", "<p>Second &quot;part&quot;</p>"],
            "title": "  Strings  &amp; <b>Things</b> ", "brand": "\n  by\n  Fender", "rank": [],
            "price": "$1,299.00", "asin": "B1", "imageURL": ["https://x/1._SS40_.jpg"],
            "imageURLHighRes": ["https://x/1.jpg", "https://x/1b.jpg"],
        },
        {
            "category": [], "description": [], "title": '"Quoted" & <3', "brand": "",
            "price": ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{color:#111}",
            "asin": "B2", "imageURL": ["https://x/2.jpg"], "imageURLHighRes": [],
        },
        {"title": "var aPageStart = (new Date()).getTime();", "asin": "B3"},
        # As many fields as the next one, and longer.
        {"title": "Three", "asin": "B3", "price": "$8.99 - $24.99", "image": ["https://x/3.jpg"]},
        {"title": "Three", "asin": "B3", "price": "$8.99 - $24.99", "brand": "C"},
    ]  # fmt: skip
    doubled = '{"asin": "B9", "title": "old", "asin": "B4", "title": "new \\ud83d"}'
    return [*map(json.dumps, records), doubled, "{broken"]


def metadata_2023() -> list[str]:
    """JSON: `store`, pictures as objects, empty values of every kind."""
    records = [
        {
            "main_category": "Musical Instruments", "title": "Strings\u200b & \u201cThings\u201d",
            "average_rating": 4.5, "rating_number": 12, "features": ["x"], "description": ["One."],
            "price": 21.9, "videos": [], "store": "Fender", "parent_asin": "B1", "details": {},
            "categories": ["Musical Instruments", "Guitars"], "bought_together": None,
            "images": [
                {"thumb": "https://x/t.jpg", "large": "https://x/l.jpg", "variant": "MAIN",
                 "hi_res": None},
                {"thumb": "https://x/t2.jpg", "large": "https://x/l2.jpg", "hi_res":
                 "https://x/h2.jpg"},
            ],
        },
        {
            "title": "Two", "description": [], "price": None, "store": None, "parent_asin": "B2",
            "categories": [], "images": [],
        },
        {
            "title": None, "description": ["Three"], "price": "from 14.99", "parent_asin": "B3",
            "images": {"hi_res": [None], "large": ["https://x/3.jpg"], "thumb": []},
        },
    ]  # fmt: skip
    return list(map(json.dumps, records))


def csv_lines(release: int) -> list[str]:
    """Ratings-only files: 2014 user first, 2018 item first, 2023 with a header."""
    if release == 2014:
        return [f"{user},{item},{rating},{day * DAY}" for user, item, rating, day in REVIEWS]
    if release == 2018:
        return [f"{item},{user},{rating},{day * DAY}" for user, item, rating, day in REVIEWS]
    rows = [f"{user},{item},{rating},{day * DAY * 1000 + 7}" for user, item, rating, day in REVIEWS]
    return ["user_id,parent_asin,rating,timestamp", *rows]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A file of lines, compressed where its name ends in .gz."""
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


NAMES = {
    2014: ("reviews_Musical_Instruments.json.gz", "meta_Musical_Instruments.json.gz"),
    2018: ("Musical_Instruments.json.gz", "meta_Musical_Instruments.json.gz"),
    2023: ("Musical_Instruments.jsonl.gz", "meta_Musical_Instruments.jsonl"),
}
REVIEW_LINES = {2014: lines_2014, 2018: lines_2018, 2023: lines_2023}
METADATA_LINES = {2014: metadata_2014, 2018: metadata_2018, 2023: metadata_2023}
