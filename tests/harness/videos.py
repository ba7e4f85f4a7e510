"""Small videos for tests, written by PyAV: of any size, any times, turned, cut, or of sound."""

import os
import struct
from fractions import Fraction

import numpy as np


def moving_frames(count=40, height=48, width=64, seed=0, speed=1):
    """Frames uint8 (count, height, width, 3): smooth coloured texture that drifts to the right."""
    rng = np.random.default_rng(seed)
    t, y, x = np.ogrid[:count, :height, :width]
    frames = np.full((count, height, width, 3), 128.0)
    for _ in range(6):
        ky, kx, phase = rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.5), rng.uniform(0, 6, 3)
        wave = (ky * y + kx * (x - speed * t))[..., None] + phase
        frames += 25 * np.sin(wave)
    return np.clip(frames, 0, 255).astype(np.uint8)


def write_video(
    path, frames, rate=25, codec="mpeg4", times=None, options=None, key_every=12, colours=None
):
    """Encode frames uint8 (T, height, width, 3); `times` in units of 1/`rate`, by default 0, 1, ...

    The name's ending chooses the container; sizes may be odd, where the codec takes them. Every
    `key_every` frames comes a key frame, on which no other depends. `colours` is libav's number of
    a colour space: 1 BT.709, 14 ICtCp.
    """
    import av

    pixels = {"ffv1": "bgr0", "mjpeg": "yuvj444p"}.get(codec, "yuv420p")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = pixels, 8_000_000
        stream.codec_context.gop_size = key_every
        if colours is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours, 1
        for n, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if colours is not None:
                frame = frame.reformat(format=pixels, dst_colorspace=1, dst_color_range=1)
                frame.colorspace, frame.color_range = colours, 1
            frame.pts = n if times is None else int(times[n])
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path, codec="pcm_s16le"):
    """A second of a tone."""
    import av

    tone = (8000 * np.sin(np.arange(16_000) / 10)).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def show_by(path, a, b, c, d):
    """Ask players of an .mp4 to show pixel (x, y) at (a x + c y, b x + d y): its display matrix."""
    raw = bytearray(path.read_bytes())
    matrix = raw.index(b"tkhd") + 4 + 40  # after version, times, id, duration, layer and volume
    one = 1 << 16
    numbers = a * one, b * one, 0, c * one, d * one, 0, 0, 0, one << 14
    raw[matrix : matrix + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(raw)
    return path


def without_packets(path, source, numbers):
    """Copy the video `source` to `path` without some of its packets, the first being number 0."""
    import av

    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for n, packet in enumerate(given.demux(video=0)):
            if packet.size and n not in numbers:
                packet.stream = stream
                container.mux(packet)
    return path


def cut(path, share):
    """Only the first `share` of a file's bytes."""
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    return path


def zoo(folder):
    """Fill a folder with everything that is called a video and is none."""
    (folder / "words.mp4").write_text("to be or not to be\n" * 99)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(9999))
    (folder / "zeros.mkv").write_bytes(bytes(9999))
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXTINF:10,\npipe.mp4\n")
    write_sound(folder / "sound.wav")
    write_sound(folder / "sound.mkv")
    cut(write_video(folder / "no_index.mp4", moving_frames(20)), 0.5)
    cut(write_video(folder / "header.mkv", moving_frames(20)), 0.02)
