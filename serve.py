"""The server of CLP Workbench: the pages behind a check of who asks."""

import streamlit as st
from starlette.middleware import Middleware

from components.doorway import Doorway

app = st.App("app.py", middleware=[Middleware(Doorway)])
