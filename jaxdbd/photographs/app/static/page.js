"use strict";

// Sends files that are chosen, dropped anywhere or pasted to `address`, two at a time, and tells the server when each is there.
function acceptPhotographs(address) {
  const waiting = [];

  async function send() {
    while (waiting.length) {
      const { file, alone } = waiting.shift();
      try {
        const answer = await fetch(`${address}?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
        const { number, detail } = await answer.json();
        if (answer.ok) emitEvent("uploaded", number, alone);
        else emitEvent("refused", `${file.name}: ${detail}`);
      } catch (error) {
        emitEvent("refused", `${file.name}: could not be sent; folders are given as --folder=DIR (${error.message})`);
      }
    }
  }

  function take(list) {
    const files = [...list];
    waiting.push(...files.map((file) => ({ file, alone: files.length === 1 })));
    send();
    send();
  }

  const chooser = document.querySelector(".chooser");
  chooser.addEventListener("change", () => { take(chooser.files); chooser.value = ""; });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer.files);
  });
}
