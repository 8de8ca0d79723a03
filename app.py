"""The app's frame: `streamlit run app.py`, or `hiplora app`."""

from hiplora.ui import shell

shell.run()
