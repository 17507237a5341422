"""Requests and answers of the service, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

N_EXPLAINED = 100  # items that a request may ask to explain

Token = Annotated[str, Field(description="Item token; a number is read as its digits.")]
History = Annotated[list[Token], Field(description="Item tokens of one history, oldest first.")]
Unknown = Annotated[
    list[str], Field(description="Tokens of the request that the model does not know.")
]


class _Request(BaseModel):
    """Body of a request; other fields are refused."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class ListRequest(_Request):
    """What to rank, for all histories of a request."""

    k: int = Field(default=10, ge=1, strict=True, description="Number of items to recommend.")
    exclude_seen: bool = Field(
        default=True, strict=True, description="Whether to leave out all items of the history."
    )
    candidates: list[Token] | None = Field(
        default=None, description="Tokens of the items to rank; by default all items of the model."
    )
    exclude: list[Token] = Field(
        default=[], description="Tokens of items that are not recommended."
    )


class RecommendRequest(ListRequest):
    """One history."""

    items: History


class BatchRequest(ListRequest):
    """Several histories."""

    histories: list[History] = Field(min_length=1, description="The histories.")


class ExplainRequest(_Request):
    """One history and the items whose scores are explained."""

    items: History
    explain: list[Token] = Field(
        min_length=1, max_length=N_EXPLAINED, description="Tokens of the items to explain."
    )
    n_removals: int = Field(
        default=3,
        ge=0,
        strict=True,
        description="Number of listed items whose removal lowers the score.",
    )


class RankedItem(BaseModel):
    """A recommended item."""

    item: str = Field(description="Item token.")
    score: float = Field(description="Score of the model: a logit, not a probability.")
    title: str | None = Field(
        default=None, description="Title; missing if the bundle has no titles."
    )


class RecommendAnswer(BaseModel):
    """Recommendations for one history."""

    recommendations: list[RankedItem] = Field(
        description="The best items, best first; fewer than k if a history leaves fewer."
    )
    unknown: Unknown


class BatchAnswer(BaseModel):
    """Recommendations for several histories."""

    results: list[RecommendAnswer] = Field(description="One entry for each history, in order.")
    unknown: Unknown


class SharedCodeAnswer(BaseModel):
    """A code of the item's semantic ID that items of the history have at the same level."""

    code: str = Field(description="The code, such as a_170.")
    items: list[str] = Field(description="Items of the history that have it, the latest first.")


class RemovalAnswer(BaseModel):
    """An item of the history whose removal lowers the score."""

    item: str = Field(description="Item token.")
    drop: float | None = Field(
        description="Score with the item minus score without it; null if the item to explain is "
        "not ranked without it."
    )


class ExplanationAnswer(BaseModel):
    """Why an item is recommended."""

    item: str = Field(description="Item token.")
    title: str = Field(description="Title; empty if there is none.")
    score: float = Field(description="Score after the whole history.")
    shared_codes: list[SharedCodeAnswer] = Field(description="Shared codes, level by level.")
    removals: list[RemovalAnswer] = Field(description="Removals, the largest drop first.")


class ExplainAnswer(BaseModel):
    """Explanations of several items."""

    explanations: list[ExplanationAnswer] = Field(
        description="One entry for each item to explain, in order."
    )
    unknown: Unknown


class HealthAnswer(BaseModel):
    """State of the service."""

    ready: bool = Field(description="Whether requests are answered.")
    model: str = Field(description="Name of the model.")
    n_items: int = Field(description="Number of items that can be recommended.")
    version: str = Field(description="Version of recbole-qbert.")
    bundle: str = Field(description="SHA-256 of the bundle's manifest.json.")


class ErrorAnswer(BaseModel):
    """A request that is not answered."""

    error: str = Field(description="One line with the field, the fault and the remedy.")
