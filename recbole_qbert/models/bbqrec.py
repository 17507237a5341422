"""BBQRec (reconstructed from the abstract): attention reweighted by the codes of items.

Paper: BBQRec: Behavior-Bind Quantization for Multi-Modal Sequential Recommendation (arXiv
2504.06636). Only its abstract is public, with neither code, equations nor settings. Of its two
parts, this is "semantics-aware sequence modeling": self-attention scores that are reweighted by
discretized similarities of quantized items, with an otherwise unchanged sequence model
(`models/layers/attention_bias.py`). The other part, behavior-semantic alignment, makes the semantic
IDs: `tokenize --streams=bbq` (`tokenizer/fusion/bbq.py`).
"""

from __future__ import annotations

from recbole_qbert.models.qbert4rec import QBERT4Rec


class BBQRec(QBERT4Rec):
    """QBERT4Rec with `attention_bias: codes`; see its constructor for shapes and errors."""
