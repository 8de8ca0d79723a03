"use strict";
(async () => {
  const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";
  const dark = matchMedia("(prefers-color-scheme: dark)"), undrawn = document.getElementById("undrawn");
  undrawn.hidden = true;

  function unpack(text) {
    const value = new Uint8Array(128);
    for (let i = 0; i < 85; i++) value[ALPHABET.charCodeAt(i)] = i;
    const missing = (5 - (text.length % 5)) % 5, full = text + "~".repeat(missing);
    const bytes = new Uint8Array((full.length / 5) * 4), view = new DataView(bytes.buffer);
    for (let i = 0, at = 0; i < full.length; at += 4) {
      let number = 0;
      for (let j = 0; j < 5; j++) number = number * 85 + value[full.charCodeAt(i++)];
      view.setUint32(at, number);
    }
    return bytes.subarray(0, bytes.length - missing);
  }

  function template(isDark) {
    const ink = isDark ? "#e4e6ea" : "#22252b", grid = isDark ? "#3a3f48" : "#dfe2e7";
    const axis = {gridcolor: grid, zerolinecolor: grid, linecolor: grid};
    return {layout: {
      font: {color: ink, family: "system-ui, sans-serif"}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis, yaxis: axis, hoverlabel: {font: {family: "system-ui, sans-serif"}},
    }};
  }

  async function read(id) {
    const packed = new Blob([unpack(document.getElementById(id).textContent)]);
    return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  const plots = [...document.querySelectorAll(".plot")], drawings = JSON.parse(await read("drawings"));
  const script = document.createElement("script");
  script.textContent = await read("plotly");
  document.head.append(script);
  const config = {displaylogo: false, responsive: true, toImageButtonOptions: {format: "svg"}};
  for (const [i, plot] of plots.entries()) {
    const {data, layout} = drawings[i];
    plot.style.height = `${layout.height}px`;
    await Plotly.newPlot(plot, data, {...layout, template: template(dark.matches)}, config);
    plot.parentElement.querySelector("details.data").open = false;
  }
  const redraw = (isDark, size) => {
    for (const plot of plots) Plotly.relayout(plot, {template: template(isDark), ...size});
  };
  dark.addEventListener("change", () => redraw(dark.matches, {}));
  addEventListener("beforeprint", () => redraw(false, {width: 680}));
  addEventListener("afterprint", () => redraw(dark.matches, {width: null, autosize: true}));
  document.documentElement.dataset.drawn = plots.length;
})().catch(error => {
  document.getElementById("undrawn").hidden = false;
  throw error;
});
