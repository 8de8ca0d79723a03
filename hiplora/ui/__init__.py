"""What the pages share. With `app.py` and `pages/` the only place that knows Streamlit."""
