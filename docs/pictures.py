"""The pictures of the app, light and dark, made from the real app in a real browser.

Run by hand, from the root of the repository: `.venv/bin/python -m docs.pictures`.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.e2e.conftest import FLAGS, SETTLED, running_server

IMAGES = Path(__file__).parent / "images"
PAGES = {"overview": ("", 1), "spectrum": ("spectrum", 2)}
"""`{picture: (address of the page, plots to wait for)}`."""
WIDTH, HEIGHT, SCALE = 1280, 960, 1.5
LARGEST = 150_000


def main() -> None:
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as cache, running_server(Path(cache)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme=scheme
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            for name, (path, plots) in PAGES.items():
                page.goto(f"{url}/{path}")
                _save(_picture(page, plots), IMAGES / f"{name}-{scheme}.webp")
        browser.close()


def _picture(page: Page, plots: int) -> bytes:
    page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {plots}")
    page.wait_for_selector(SETTLED)
    # Fonts and the last layout of the plots come after the script has ended.
    page.wait_for_function("document.fonts.status === 'loaded'")
    page.wait_for_timeout(2_000)
    return page.screenshot(animations="disabled")


def _save(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=82, method=6)
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{path} takes {size} bytes, more than {LARGEST}: lower the quality or the scale.")


if __name__ == "__main__":
    main()
