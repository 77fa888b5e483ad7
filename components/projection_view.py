"""The parts of the page on projection: points with their colours, one picture, what is selected and taken away."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from clp_core.checkpoints.provenance_reading import read_columns
from clp_core.errors import InputError
from clp_core.figures import Marks, scatter
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.geometry.layout import MOST_POINTS, Movement, find_layout, inside, sampled
from clp_core.geometry.project_options import ProjectOptions
from clp_core.options import command_of
from clp_core.submission import submit_project
from clp_core.tokenization.vocabulary import Vocabulary
from components.browser import tell_on_hover
from components.jobs import last_of, wait_or_offer
from components.messages import number, offer_csv, offer_file, plain
from components.models import SelectedPair, folder_of, overlap_of, prepared_or_offer, prepared_or_stop, workspace
from components.neighbours import K, nearest_tokens
from components.token_view import meant

COLUMNS = {
    "status": "status",
    "category": "category",
    "script": "script",
    "rank": "rank (id)",
    "norm": "length of the row",
    "n_eff": "effective anchors (n_eff)",
}
MOST_SCRIPTS = 7
MOVERS = 200


@dataclass(frozen=True)
class Space:
    """A model's tokens in a picture.

    Attributes:
        name: the model.
        prepared: what was prepared of it.
        points: one row a token: id, x, y, status, category, script, rank, norm, and n_eff where it is known.
        method: the layout.
    """

    name: str
    prepared: EmbeddingCache
    points: pd.DataFrame
    method: str

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's vocabulary."""
        return self.prepared.vocabulary


def open_space(pair: SelectedPair, name: str, method: str) -> Space | None:
    """Return a model's picture, or offer what is still to be done for it in its place."""
    prepared = prepared_or_offer(name)
    if prepared is None:
        return None
    layout = find_layout(prepared, method, workspace().cache)
    if layout is None:
        offer_umap(prepared)
        return None
    provenance = folder_of(name) / PROVENANCE_FILE
    if provenance.is_file():
        key = f"{prepared.path.name}-{method}"
        status, n_eff = stored_figures(str(provenance.parent), prepared.path.name)
    else:
        key, status = statuses_of(pair, name, prepared)
        key, n_eff = f"{prepared.path.name}-{method}-{key}", None
    return Space(name, prepared, points_of(key, prepared, layout, status, n_eff), method)


@st.cache_resource(max_entries=12, show_spinner=False)
def stored_figures(folder: str, content: str) -> tuple[np.ndarray, np.ndarray]:
    """Return status and n_eff of every row as the transfer has written them."""
    table = read_columns(Path(folder), ["status", "n_eff"])
    return table["status"].to_numpy(dtype=object), table["n_eff"].to_numpy(np.float32)


def offer_umap(prepared: EmbeddingCache) -> None:
    """Follow the job that lays a model out by UMAP, or offer to start it."""
    model = str(prepared.meta["folder"])
    output = workspace().cache / "projections" / f"{prepared.path.name}-umap.parquet"
    options = ProjectOptions(model, str(output))
    st.info("UMAP takes a minute or two the first time; then the layout is kept.", icon=":material/info:")
    if wait_or_offer(last_of("project", "model", model), "Lay out by UMAP", command_of(options)):
        output.parent.mkdir(parents=True, exist_ok=True)
        submit_project(workspace(), options)
        st.rerun()


@st.cache_resource(max_entries=12, show_spinner="Placing the tokens")
def points_of(
    key: str, _prepared: EmbeddingCache, _layout: np.ndarray, _status: np.ndarray, _n_eff: np.ndarray | None
) -> pd.DataFrame:
    """Return one row a token with all that it can be coloured by."""
    vocabulary, ids = _prepared.vocabulary, _prepared.token_ids
    scripts = pd.Series(vocabulary.scripts[ids])
    frequent = set(scripts.value_counts().head(MOST_SCRIPTS).index)
    points = pd.DataFrame(
        {
            "id": ids.astype(np.int32),
            "x": _layout[:, 0].astype(np.float32),
            "y": _layout[:, 1].astype(np.float32),
            "category": pd.Categorical(vocabulary.categories[ids]),
            "script": pd.Categorical(scripts.where(scripts.isin(frequent), "other")),
            "rank": ids.astype(np.float32),
            "norm": _prepared.norms[ids],
        }
    )
    points["status"] = pd.Categorical(_status[ids])
    if _n_eff is not None:
        points["n_eff"] = _n_eff[ids]
    return points


def statuses_of(pair: SelectedPair, name: str, prepared: EmbeddingCache) -> tuple[str, np.ndarray]:
    """Return the status of each id of a model that no transfer wrote, against the pair, and a key for their content."""
    source = prepared_or_stop(pair.source)
    if name == pair.source:
        helper = prepared_or_stop(pair.helper)
        key = f"{source.path.name}-{helper.path.name}"
        found = overlap_of(key, source.vocabulary, helper.vocabulary, "raw")
        status = np.full(prepared.vocabulary.n_ids, "source only", dtype=object)
        status[list(found.used_source_ids)] = "copied"
        return key, status
    key = f"{source.path.name}-{prepared.path.name}"
    return key, overlap_of(key, source.vocabulary, prepared.vocabulary, "raw").statuses


def searched(vocabulary: Vocabulary, query: str) -> int | None:
    """Return the token that a query means, the first that holds it where none is just that."""
    if not query.strip():
        return None
    try:
        return meant(vocabulary, query)
    except InputError as error:
        hits = vocabulary.search(query, 1)
        if not hits:
            st.warning(plain(str(error)), icon=":material/search_off:")
        return hits[0] if hits else None


def marks_of(space: Space, token_id: int | None, picked: np.ndarray, fly: bool, arrows: np.ndarray | None) -> Marks:
    """Return what is drawn on top of a picture: the searched token with its neighbours, rings, arrows."""
    near: tuple[int, ...] = ()
    labels: dict[int, str] = {}
    if token_id is not None:
        pairs = nearest_tokens(str(space.prepared.path), space.prepared.meta["content"], token_id, K, space.prepared)
        near = tuple(i for i, _ in pairs)
        labels = {i: space.vocabulary.shown(i) for i in (token_id, *near)}
    return Marks(token_id, near, labels, picked, arrows, fly)


def same_tokens(space: Space, other: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """Return the ids in a picture of the tokens of another vocabulary that it has too."""
    tokens = (other.tokens[i] for i in ids.tolist())
    found = [space.vocabulary.ids[token] for token in tokens if token is not None and token in space.vocabulary.ids]
    return np.array(found, dtype=np.int64)


def show_picture(space: Space, colour: str, marks: Marks, image: str) -> tuple[go.Figure, pd.DataFrame]:
    """Show a picture; return the figure and the points that are selected in it."""
    points = space.points
    always = np.flatnonzero(points["id"].isin([marks.token, *marks.neighbours, *marks.picked.tolist()]))
    places = sampled(points["status"].to_numpy(), MOST_POINTS, always)
    drawn = points.iloc[places]
    title = f"Input embeddings of {space.name}, {space.method.upper()} of rows scaled to length 1"
    figure = scatter(drawn, colour, marks, title, COLUMNS[colour])
    on_page = go.Figure(figure)
    for trace in on_page.data:
        if trace.hoverinfo is None:  # told by id instead, see below
            trace.update(hoverinfo="none", hovertemplate=None)
    key = f"picture_{space.prepared.path.name}_{space.method}"
    event = st.plotly_chart(
        on_page,
        key=key,
        on_select="rerun",
        selection_mode=("box", "lasso", "points"),
        config={"toImageButtonOptions": {"format": image, "filename": f"{space.name}-{space.method}", "scale": 2}},
        alt=f"Tokens of {space.name} in two dimensions by {space.method.upper()}, coloured by {colour}",
    )
    vocabulary, by_id = space.vocabulary, points.set_index("id")

    def tell(token_id: int) -> str:
        if token_id not in by_id.index:
            return ""
        row = by_id.loc[token_id]
        return f"{vocabulary.shown(token_id)}   #{token_id} · {row['status']} · {row['category']}"

    tell_on_hover(key, tell)
    if len(drawn) < len(points):
        st.caption(
            f"{number(len(drawn))} of {number(len(points))} tokens are drawn, each status with its share; a searched "
            "token and a box or lasso find all of them."
        )
    return figure, points[chosen(points, event["selection"], len(drawn) < len(points), colour)]


def chosen(points: pd.DataFrame, selection: Any, is_sampled: bool, colour: str = "") -> np.ndarray:
    """Return which points are selected, ``[n]`` of bool; by the bounds of box or lasso those that are not drawn too.

    Of these none in a group without a selected dot: the legend may have hidden it.
    """
    ids = [int(point["customdata"]) for point in selection["points"] if "customdata" in point]
    found = points["id"].isin(ids).to_numpy(copy=True)
    if is_sampled:
        xy = points[["x", "y"]].to_numpy()
        for box in selection.get("box", []):
            corners = np.array([[box["x"][i], box["y"][j]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))])
            found |= inside(corners, xy)
        for lasso in selection.get("lasso", []):
            found |= inside(np.stack([lasso["x"], lasso["y"]], axis=1), xy)
        if ids and colour and not pd.api.types.is_numeric_dtype(points[colour]):
            found &= points[colour].isin(points.loc[points["id"].isin(ids), colour].unique()).to_numpy()
    return found


def show_selection(space: Space, selected: pd.DataFrame) -> None:
    """Show the selected tokens as a table to take away."""
    if selected.empty:
        st.caption("Draw a box or a lasso in the picture to list its tokens. A click in the legend hides a group.")
        return
    table = selected.assign(token=[space.vocabulary.shown(i) for i in selected["id"]])
    order = ["id", "token", "status", "category", "script", "norm", *(["n_eff"] if "n_eff" in table else []), "x", "y"]
    table = table[order]
    st.markdown(f"**{number(len(table))}** tokens are selected.")
    st.dataframe(table, hide_index=True, alt="The selected tokens")
    offer_csv(table, "selection.csv")


def show_export(space: Space, figure: go.Figure) -> None:
    """Offer the picture as HTML, and the points as parquet."""
    left, right = st.columns(2)
    name = f"{space.name.replace('/', '-')}-{space.method}"
    with left:
        offer_file(
            "Picture as HTML", lambda: figure.to_html(include_plotlyjs=True).encode(), f"{name}.html", "text/html"
        )
    with right:
        offer_file(
            "Points as parquet",
            lambda: parquet_of(space),
            f"{name}.parquet",
            "application/vnd.apache.parquet",
            about="id, token, text, x, y and all that the picture can be coloured by",
        )
    st.caption("PNG or SVG: the camera above the picture, in the format chosen under More.")


def parquet_of(space: Space) -> bytes:
    """Return all points with their tokens as a parquet file."""
    vocabulary, buffer = space.vocabulary, io.BytesIO()
    ids = space.points["id"].tolist()
    table = space.points.assign(token=[vocabulary.tokens[i] for i in ids], text=[vocabulary.shown(i) for i in ids])
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


@st.cache_resource(max_entries=4, show_spinner="Comparing the rows before and after")
def movement_of(key: str, _before: EmbeddingCache, _after: EmbeddingCache) -> Movement:
    """Compare two models row by row once."""
    return Movement.of(_before, _after)


def show_movement(space: Space, moved: Movement) -> None:
    """Show the tokens whose rows turned most in training."""
    places = moved.furthest(MOVERS)
    ids = moved.ids[places]
    status = space.points.set_index("id")["status"]
    st.markdown(
        f"**The {number(len(ids))} rows that turned most in training**, of {number(len(moved.cosines))}; the median "
        f"row has a cosine of {number(float(np.median(moved.cosines)), 4)} to what it was."
    )
    table = pd.DataFrame(
        {
            "token": [space.vocabulary.shown(i) for i in ids.tolist()],
            "id": ids,
            "status": status.loc[ids].to_numpy(),
            "cosine to before": moved.cosines[places],
            "length over before": moved.norm_ratio[places],
        }
    )
    form = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(
        table,
        hide_index=True,
        column_config={"cosine to before": form, "length over before": form},
        alt="The rows that turned most in training",
    )
