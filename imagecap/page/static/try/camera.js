// A picture from the camera.

import { el } from "../dom.js";

let taken = 0;

/** Open the camera in a dialog; returns the picture as a file, or null. */
export async function takePicture(tools) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    tools.toast(tools.t("try.camera.failed", { reason: error.message }), "bad");
    return null;
  }
  const video = el("video", { autoplay: true, playsinline: true, class: "camera" });
  video.muted = true;
  video.srcObject = stream;
  try {
    const choice = await tools.dialog(tools.t("try.camera.title"), video, [
      { text: tools.t("shell.cancel"), value: null },
      { text: tools.t("try.camera.take"), value: "take", kind: "main" },
    ]);
    if (choice === null || !video.videoWidth) return null;
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const content = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    taken += 1;
    return new File([content], tools.t("try.camera.name", { number: taken }), { type: "image/jpeg" });
  } finally {
    for (const track of stream.getTracks()) track.stop();
  }
}
