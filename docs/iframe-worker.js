// The search of a site that is opened from the disk: browsers refuse workers there, so that an empty frame takes their place.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.importScripts = async (...addresses) => {
        for (const one of addresses) await load(frame, one);
      };
      this.ready = load(frame, address);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}

function load(frame, address) {
  return new Promise((done, failed) => {
    const script = frame.contentDocument.createElement("script");
    script.src = new URL(address, location.href);
    script.onload = done;
    script.onerror = () => failed(new Error(`${address} cannot be read`));
    frame.contentDocument.body.append(script);
  });
}
