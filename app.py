"""CLP Workbench: navigation over the pages."""

from pathlib import Path

import streamlit as st

from components.guard import let_in_or_stop
from components.messages import errors_as_messages

# Without an icon of its own, streamlit would fetch that of the open page from a server on the internet.
ICON = Path(__file__).parent / "components" / "icon.svg"
st.set_page_config(page_title="CLP Workbench", page_icon=str(ICON), layout="wide")
# Off in the configuration, so that a fresh server does not flash its own menu of the pages folder.
st.set_option("client.showSidebarNavigation", True)

navigation = st.navigation(
    {
        "": [st.Page("pages/overview.py", title="Overview", icon=":material/home:", default=True)],
        "Explore": [
            st.Page("pages/overlap.py", title="Overlap", icon=":material/join_inner:"),
            st.Page("pages/tokens.py", title="Tokens", icon=":material/manage_search:"),
            st.Page("pages/projection.py", title="Projection", icon=":material/scatter_plot:"),
        ],
        "Build": [
            st.Page("pages/helper.py", title="Helper", icon=":material/egg:"),
            st.Page("pages/transfer.py", title="Transfer", icon=":material/move_down:"),
            st.Page("pages/train.py", title="Train", icon=":material/model_training:"),
        ],
        "Watch": [
            st.Page("pages/runs.py", title="Runs", icon=":material/monitoring:"),
            st.Page("pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
            st.Page("pages/playground.py", title="Playground", icon=":material/chat:"),
        ],
    }
)
with errors_as_messages():
    let_in_or_stop()
    navigation.run()
