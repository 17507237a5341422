"""MQL4GRec's and LC-Rec's JSON files, from and to atomic files.

    X.inter.json        {"0": [3, 17, ...]}: each user's items in order, all by number
    X.item.json         {"0": {"title": "...", "brand": "..."}}
    X.index.json        {"0": ["<a_1>", "<b_2>", ...]}: semantic IDs; X.index_lemb.json and the like
    X.user2id, X.item2id   token, tab, number; without them the numbers are the tokens

In atomic files the place in a sequence is the `timestamp`, a field of an item is a column, and each
index a column of codes (`lemb` of X.index_lemb.json, `codes` of X.index.json, whose tuples also
become X.semid if they are unique). Both directions leave a file that says how the other side was
written, so that going there and back gives the same bytes.
"""

INDEX, CODES = "index", "codes"  # names: of the semantic IDs' files, and of their column
