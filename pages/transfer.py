"""Which method, and what did it do?"""

import pandas as pd
import streamlit as st

from clp_core.figures import methods_chart
from clp_core.initializers import INITIALIZERS
from clp_core.jobs import JobStore
from clp_core.options import command_of, help_of
from clp_core.reports.method_comparison import MethodComparison
from clp_core.submission import submit_method_comparison, submit_transfer
from clp_core.tokenization.match_choices import MATCHES
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import AUTO, GUARDS, TransferOptions
from clp_core.transfer.overrides import OverrideList
from components.jobs import follow, result_or_error
from components.messages import command, plain, question
from components.models import folder_of, pair_bar, vocabulary_or_stop, workspace
from components.models import texts as texts_here
from components.navigation import opened_by_app, put
from components.report import show_report

NO_TEXT = "(none)"

opened_by_app()
pair = pair_bar()
space = workspace()
source, helper = folder_of(pair.source), folder_of(pair.helper)
mine = [job for job in JobStore(space.jobs).jobs() if job.kind in ("transfer", "compare-methods")]
mine = [
    job
    for job in mine
    if {"source": str(source), "helper": str(helper)}.items() <= {**job.spec.get("arguments", {})}.items()
]
transfers = [job for job in mine if job.kind == "transfer"]
newest = next((job for job in mine if job.kind == "compare-methods" and job.status().state == "finished"), None)
found = result_or_error(newest, MethodComparison.of_json) if newest else None
compared = newest if found else None
latest = next((job for job in mine if job.kind == "compare-methods"), None)
scores = found.scores if found else ()

if found:
    answer = f"**{plain(found.advice)}**"
else:
    answer = (
        "The methods are not compared on this pair yet: the button on the right does it before anything is trained."
    )
question("Which method, and what did it do?", answer)
if vocabulary_or_stop(pair.source).has_chat_template:
    st.warning(
        "The source has a chat template. It and its special tokens are not carried over: the target is no chat model.",
        icon=":material/warning:",
    )

form, comparison = st.columns(2, gap="large")
with form:
    st.subheader("Write a target")
    names = [AUTO, *(name for name in INITIALIZERS if name != "static-vectors")]
    best = AUTO

    def described(name: str) -> str:
        """Return a method with its line of explanation and its held-out score."""
        if name == AUTO:
            return "**auto**: the best of linear and two-view on hidden anchors of this pair"
        score = found.score_of(name) if found else None
        held = score.heldout.centred_cosine if score else None
        told = f" · held-out cosine {held:.3f}" if held is not None else ""
        return f"**{name}**: {INITIALIZERS[name].summary}{told}"

    picked = st.radio(
        "Method", names, index=names.index(best), format_func=described, help=help_of(TransferOptions, "method")
    )
    method = picked or best
    first, second = st.columns(2)
    match = first.selectbox("Match", MATCHES, help=help_of(TransferOptions, "match")) or MATCHES[0]
    seed = second.number_input("Seed", min_value=0, value=42, help=help_of(TransferOptions, "seed"))
    texts = {path.name: str(path) for path in texts_here()}
    held_out = next((name for name in texts if "valid" in name), NO_TEXT)
    options_text = [NO_TEXT, *texts]
    scored_on = st.selectbox(
        "Score it on", options_text, index=options_text.index(held_out), help=help_of(TransferOptions, "eval_text")
    )
    text = texts.get(scored_on or NO_TEXT, "")
    suggested = f"{source.name}-{helper.name}-{method}"
    name = st.text_input(
        "Name of the target", suggested, key=f"name_{suggested}", help="a folder of this name in the workspace's models"
    )
    with st.expander("More", expanded=OverrideList.of(space.root, source, helper).file.is_file()):
        guard = st.selectbox("Guard", GUARDS, index=1, help=help_of(TransferOptions, "guard")) or GUARDS[1]
        match_norms = st.checkbox("Match norms", help=help_of(TransferOptions, "match_norms"))
        noted = "\n".join(OverrideList.of(space.root, source, helper).options())
        overrides = st.text_area(
            "Overrides",
            noted,
            height=80,
            key=f"overrides_{noted}",
            placeholder="ĠSchloss=Ġcastle",
            help="one TOKEN=TEXT a line: see --override. What was noted on the page Tokens stands here already",
        )
    overwrite = st.checkbox("Replace it if it exists", help=help_of(TransferOptions, "overwrite"))
    bad_name = not name.strip() or "/" in name or "\\" in name or name.startswith(".") or "\0" in name
    bad_line = next((line for line in overrides.splitlines() if line.strip() and "=" not in line.strip()[1:]), None)
    if bad_name:
        st.error("Give the target a plain name without slashes.", icon=":material/error:")
    elif bad_line is not None:
        st.error(plain(f"The override {bad_line!r} is not TOKEN=TEXT."), icon=":material/error:")
    else:
        options = TransferOptions(
            str(source),
            str(helper),
            str(space.models / name.strip()),
            method,
            match=match,
            seed=int(seed),
            eval_text=text,
            override=tuple(line.strip() for line in overrides.splitlines() if line.strip()),
            guard=guard,
            match_norms=match_norms,
            overwrite=overwrite,
        )
        command(command_of(options))
        exists = (space.models / name.strip()).exists() and not overwrite
        if exists:
            st.info(
                f"{plain(name)} exists and is kept. Choose another name, or tick the box above.", icon=":material/info:"
            )
        running = next((job for job in transfers if not job.status().is_over), None)
        if st.button(
            "Write the target", type="primary", disabled=exists or running is not None, icon=":material/move_down:"
        ):
            submit_transfer(space, options)
            put("target", name.strip())
            st.rerun()
        if running:
            follow(running)

with comparison:
    st.subheader("Methods on this pair")
    comparing = next((job for job in mine if job.kind == "compare-methods" and not job.status().is_over), None)
    if scores:
        rows = [
            (
                score.method,
                score.heldout.centred_cosine,
                score.zero_step_bits_per_byte,
                score.seconds,
                score.heldout.relative_error,
            )
            for score in scores
        ]
        st.dataframe(
            pd.DataFrame(rows, columns=["method", "centred cosine", "bits per byte", "seconds", "relative error"]),
            hide_index=True,
            column_config={
                "centred cosine": st.column_config.NumberColumn(
                    format="%.3f", help="on hidden anchors: 1 perfect, 0 no better than the mean"
                ),
                "relative error": st.column_config.NumberColumn(
                    format="%.3f", help="on hidden anchors: below 1 is better than the mean"
                ),
                "bits per byte": st.column_config.NumberColumn(
                    format="%.3f", help="of the target on the text, before any training"
                ),
                "seconds": st.column_config.NumberColumn(format="%.1f"),
            },
            alt="Methods by held-out score, bits per byte before training and seconds",
        )
        st.plotly_chart(
            methods_chart(scores),
            key="methods_chart",
            alt="Methods by held-out cosine and bits per byte before training",
        )
        for score in scores:
            if score.note:
                st.caption(plain(f"{score.method}: {score.note}"))
    if compared:
        told = compared.spec["arguments"]
        st.caption(plain(f"Match {told.get('match', 'raw')}, seed {told.get('seed', 42)}."))
    if latest and latest.status().state == "failed":
        st.error(plain(f"The last comparison failed: {latest.status().reason}"), icon=":material/error:")
    st.caption("One tenth of the overlap is hidden, initialised as if it were missing, and compared with the truth.")
    if comparing:
        follow(comparing)
    elif st.button("Compare the methods", icon=":material/compare_arrows:"):
        asked = CompareMethodsOptions(str(source), str(helper), text=text, match=match, seed=int(seed), keep_rows=True)
        submit_method_comparison(space, asked)
        st.rerun()

written = next((job for job in transfers if job.status().is_over), None)
if written:
    show_report(written, space)
