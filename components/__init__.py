"""What several pages share and only makes sense in streamlit; everything that computes is in ``clp_core``."""
