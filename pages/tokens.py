"""Where does this row come from? One token's card, its anchors, and its neighbours in three models."""

import streamlit as st

from clp_core.errors import InputError
from clp_core.figures import anchor_bars, health_histograms
from clp_core.folders import fingerprint
from clp_core.initializers import initializer
from components.messages import cards, number, plain, question
from components.models import pair_bar, pair_overlap, prepared_or_stop
from components.navigation import kept, one_of, opened_by_app, put, remember
from components.neighbours import show_neighbours
from components.pills import STYLE, pill
from components.targets import explainer_of, targets_of

opened_by_app()
pair = pair_bar()
source, helper = prepared_or_stop(pair.source), prepared_or_stop(pair.helper)
targets = targets_of(pair)
names = [entry.name for entry in targets]
left, right = st.columns([2, 1], vertical_alignment="bottom")
query = left.text_input(
    "Token",
    key=kept("token", "Ġdas" if "Ġdas" in helper.vocabulary.ids else "#300"),
    help="the raw string, a text that is one token, or #id; the address of this page then leads to it",
    placeholder="a token, a text, or #id",
)
remember("token", query)
chosen = one_of(right, "Target model", "target", names, "its rows are explained") if names else ""

if not query.strip():
    st.info("Type a token, a text, or #id.", icon=":material/info:")
    st.stop()
vocabulary = helper.vocabulary
try:
    token_id = vocabulary.find(query)
except InputError as error:
    st.warning(plain(str(error)), icon=":material/search_off:")
    pieces = vocabulary.encode(query)[:8]
    for i, (column, piece) in enumerate(zip(st.columns(max(len(pieces), 1)), pieces, strict=False)):
        label = plain(f"{vocabulary.shown(piece)} #{piece}")
        column.button(label, key=f"piece_{i}", on_click=put, args=("token", f"#{piece}"))
    st.stop()
overlap = pair_overlap(pair, "raw")
entry = next((entry for entry in targets if entry.name == chosen), None)
explainer = explainer_of(str(entry.folder), fingerprint(entry.folder), helper) if entry else None
explanation = explainer.explain(token_id, 20) if explainer else None
status = explanation.status if explanation else str(overlap.statuses[token_id])
source_id = (
    explanation.source_id
    if explanation
    else (int(overlap.source_ids[token_id]) if overlap.source_ids[token_id] >= 0 else None)
)

method = explanation.method if explanation else None
if status == "special":
    answer = f"It is **copied by role**: source row {number(source_id)}, bit for bit."
elif status == "override" and explanation is not None:
    named = ", ".join(plain(anchor.token) for anchor in explanation.anchors)
    answer = f"It is **overridden** by hand: made of the source's {named}."
elif status == "copied" or (explanation is None and source_id is not None):
    answer = f"It is **copied**: source row {number(source_id)}, bit for bit."
elif explanation is None:
    answer = "It is **missing** in the source. Write a target on the page Transfer to see how its row is made."
elif explanation.n_eff is None or not explanation.anchors:
    answer = f"It is **{explanation.status}** by `{method}`, which draws it without anchors."
elif explanation.anchors_for_90_percent is None:
    answer = f"It is **initialised** by `{method}`; its {len(explanation.anchors)} heaviest anchors are kept."
else:
    answer = (
        f"It is **initialised** by `{method}`: {number(explanation.anchors_for_90_percent)} of "
        f"{number(explanation.n_anchors)} anchors carry 90 % of the weight."
    )
trained = explainer.report.get("trained_steps") if explainer else None
if trained:
    answer += f" That was before **{number(trained)}** steps of training, which have changed the rows since."
question("Where does this row come from?", answer)

card, picture = st.columns([1, 2])
with card.container(border=True):
    st.html(f'{STYLE}<div class="pills">{pill(vocabulary.shown(token_id), status)}</div>')
    figures = {
        "raw string": vocabulary.tokens[token_id],
        "id": number(token_id),
        "bytes": vocabulary.token_bytes[token_id].hex(" "),
        "status": status,
        "category": vocabulary.categories[token_id],
        "script": vocabulary.scripts[token_id],
        "source row": number(source_id),
    }
    if explanation:
        figures |= {
            "effective anchors (n_eff)": number(explanation.n_eff, 1),
            "cancellation": number(explanation.cancellation, 3),
            "norm ratio": number(explanation.norm_ratio, 3),
            "at risk": "yes" if explanation.at_risk else "no",
        }
    for label, value in figures.items():
        name, cell = st.columns([2, 3])
        name.caption(label)
        cell.markdown(plain(str(value)))
with picture:
    if explanation and explanation.anchors:
        shown = [vocabulary.shown(a.id) if a.id is not None else a.token for a in explanation.anchors]
        st.plotly_chart(
            anchor_bars(explanation, shown),
            key="anchors",
            alt="The heaviest anchors of this token by weight, coloured by cosine",
        )
    elif explanation and source_id is not None:
        st.info("A copied row has one origin, so there are no anchors to show.", icon=":material/info:")
    elif explanation:
        st.info("This method draws rows without anchors, so there are none to show.", icon=":material/info:")
    else:
        st.info("No target of this pair yet. Write one on the page Transfer.", icon=":material/info:")
        st.page_link("pages/transfer.py", label="Open Transfer", icon=":material/arrow_forward:")

st.subheader("Nearest neighbours")
st.caption("By cosine of the input embeddings, exact; the token itself is left out.")
columns = st.columns(3)
with columns[0]:
    show_neighbours("helper", helper, token_id)
with columns[1]:
    show_neighbours("source", source, source_id)
with columns[2]:
    if entry:
        show_neighbours(f"target {plain(entry.name)}", prepared_or_stop(entry.name), token_id)
    else:
        st.markdown("**target**")
        st.caption("Not written yet.")

if explainer:
    st.subheader("Health of all new rows")
    table = explainer.table
    report = explainer.report
    health = report["health"]
    cards(
        {
            "Rows at risk": (number(health["rows_at_risk"]), "too long, cancelled or collapsed"),
            "Collapsed": (
                number(health["collapsed"]),
                "n_eff above half the anchors, for methods that use all of them",
            ),
            "Cancelled": (number(health["cancelled"]), "n_eff below 1"),
            "Too long": (number(health["too_long"]), "more than 3 times as long as copied rows"),
        }
    )
    charts = health_histograms(table, report["overlap"], initializer(report["method"]).dense)
    for column, chart, alt in zip(st.columns(2), charts, ("Spread of n_eff", "Spread of norm ratio"), strict=True):
        column.plotly_chart(chart, alt=alt)
    worst = table[table["at_risk"]].nlargest(100, "norm_ratio") if table["at_risk"].any() else table[:0]
    if len(worst):
        st.markdown("**The 100 longest rows at risk**")
        st.dataframe(
            worst.assign(token=[vocabulary.shown(i) for i in worst["id"]])[["id", "token", "n_eff", "norm_ratio"]],
            hide_index=True,
            alt="The rows most at risk",
        )
