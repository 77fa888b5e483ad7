"""What does the space look like, and where did the new rows land?"""

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.errors import InputError
from clp_core.figures import scatter
from clp_core.jobs import JobStore
from clp_core.jobs.submit import command_of, submit_project
from clp_core.prepared import Prepared
from clp_core.projection import ProjectOptions, find_layout, project
from clp_core.provenance import PROVENANCE_FILE
from components.jobs import follow
from components.messages import command, number, plain, question
from components.models import choose_model, folder_of, models, overlap_of, pair_bar, prepared_or_stop, workspace
from components.navigation import kept, opened_by_app, remember

COLUMNS = {"status": "status (copied or new)", "category": "category", "script": "script"}
MOST_SCRIPTS = 7


@st.cache_data(max_entries=8, show_spinner="Laying out by PCA")
def pca_points(path: str, content: str, _prepared: Prepared) -> np.ndarray:  # noqa: ARG001
    """Return the PCA layout of a model, ``[n, 2]``."""
    table, _ = project(_prepared, "pca", workspace().cache)
    return table[["x", "y"]].to_numpy(np.float32)


@st.cache_data(max_entries=8, show_spinner=False)
def stored_statuses(path: str, content: str) -> np.ndarray:  # noqa: ARG001
    """Return the status of every id as the transfer has written it."""
    return pd.read_parquet(path, columns=["status"])["status"].astype(object).to_numpy()


opened_by_app()
pair = pair_bar()
entries = models()
left, middle, right, search = st.columns([2, 1, 1, 2], vertical_alignment="bottom")
with left:
    name = choose_model("Model", "shown", [entry.name for entry in entries], pair.helper)
method = middle.segmented_control("Layout", ["pca", "umap"], key=kept("layout", "pca"), format_func=str.upper) or "pca"
colour = right.selectbox("Colour", list(COLUMNS), format_func=lambda name: COLUMNS[name]) or "status"
wanted = search.text_input("Find a token", key=kept("token", ""), placeholder="a token, a text, or #id")
remember("layout", method)
remember("token", wanted)

prepared = prepared_or_stop(name)
vocabulary = prepared.vocabulary
ids = np.array([i for i, token in enumerate(vocabulary.tokens) if token is not None])
if method == "pca":
    layout = pca_points(str(prepared.path), prepared.meta["content"], prepared)
else:
    found = find_layout(prepared, "umap", workspace().cache)
    if found is None:
        model = prepared.meta["folder"]
        output = workspace().cache / "projections" / f"{prepared.path.name}-umap.parquet"
        options = ProjectOptions(model, str(output))
        question("What does the space look like?", "UMAP needs a minute the first time; then it is kept.")
        jobs = [
            job
            for job in JobStore(workspace().jobs).jobs()
            if job.kind == "project" and job.spec["arguments"]["model"] == model
        ]
        if jobs and not jobs[0].status().is_over:
            follow(jobs[0])
            st.stop()
        if jobs and jobs[0].status().state == "failed":
            st.error(plain(f"The last try failed: {jobs[0].status().reason}"), icon=":material/error:")
        command(command_of("project", options))
        if st.button("Lay out by UMAP", type="primary"):
            output.parent.mkdir(parents=True, exist_ok=True)
            submit_project(workspace(), options)
            st.rerun()
        st.stop()
    layout = found

if (folder_of(name) / PROVENANCE_FILE).is_file():
    statuses = stored_statuses(str(folder_of(name) / PROVENANCE_FILE), prepared.path.name)[ids]
elif name == pair.source:
    statuses = np.full(len(ids), "copied", dtype=object)
else:
    source = prepared_or_stop(pair.source)
    statuses = overlap_of(f"{source.path.name}-{prepared.path.name}", source.vocabulary, vocabulary, "raw").statuses[
        ids
    ]
scripts = pd.Series(vocabulary.scripts[ids])
frequent = set(scripts.value_counts().head(MOST_SCRIPTS).index)
points = pd.DataFrame(
    {
        "id": ids,
        "x": layout[:, 0],
        "y": layout[:, 1],
        "status": statuses,
        "category": vocabulary.categories[ids],
        "script": scripts.where(scripts.isin(frequent), "other"),
    }
)
marked = None
if wanted.strip():
    try:
        marked = vocabulary.find(wanted)
    except InputError as error:
        st.warning(plain(str(error)), icon=":material/search_off:")
points["shown"] = ""
if marked is not None:
    points.loc[points["id"] == marked, "shown"] = vocabulary.shown(marked)
counts = points["status"].value_counts()
question(
    "What does the space look like, and where did the new rows land?",
    f"**{number(len(points))}** tokens of **{plain(name)}** by {method.upper()}: "
    + ", ".join(f"{number(int(count))} {status}" for status, count in counts.items())
    + ("" if name != pair.source else " (the source itself)"),
)
event = st.plotly_chart(
    scatter(points, colour, marked, f"Input embeddings of {name}, {method.upper()} of rows scaled to length 1"),
    key=f"scatter_{name}_{method}_{colour}",
    on_select="rerun",
    selection_mode=("box", "lasso", "points"),
    alt=f"Tokens of {name} in two dimensions, coloured by {colour}",
)
picked = [int(point["customdata"]) for point in event["selection"]["points"] if "customdata" in point]
if picked:
    table = points[points["id"].isin(picked)].assign(shown=lambda frame: [vocabulary.shown(i) for i in frame["id"]])
    table = table[["id", "shown", "status", "category", "script", "x", "y"]]
    st.caption(f"{number(len(table))} tokens are selected.")
    st.dataframe(table, hide_index=True, alt="The selected tokens")
    st.download_button("Download as CSV", lambda: table.to_csv(index=False).encode(), "selection.csv", "text/csv")
else:
    st.caption("Draw a box or a lasso in the picture to list its tokens. A click in the legend hides a group.")
