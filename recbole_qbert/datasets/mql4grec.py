"""Format of MQL4GRec's and LC-Rec's JSON files, and its mapping to atomic files.

    X.inter.json        {"0": [3, 17, ...]}: each user's items in order, all by number
    X.item.json         {"0": {"title": "...", "brand": "..."}}
    X.index.json        {"0": ["<a_1>", "<b_2>", ...]}: semantic IDs; X.index_lemb.json and the like
    X.user2id, X.item2id   token, tab, number; without them the numbers are the tokens

In atomic files, the position in a sequence is the `timestamp`, and each field of an item is a
column. Each index is a column of codes: `lemb` for X.index_lemb.json, `codes` for X.index.json. The
tuples of X.index.json also become X.semid if they are unique. An import and an export both write a
file on the layout of their source, so that a round trip gives the same bytes.
"""

INDEX, CODES = "index", "codes"  # name of the semantic-ID files, and of their column
