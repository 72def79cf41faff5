"""A stand-in for the Hugging Face Hub, as a process: dataset repositories, buckets, and jobs that really run.

    python tests/fakes/hub_server.py --folder DIR

prints its address when it is ready. It records every request in DIR/requests.jsonl, and keeps each job's home, output
and bucket mount under DIR/jobs/ID. A job's command runs as a local process, with a `python3` whose `pip install`
unpacks an archive of this project and refuses all else. Clients set HF_HUB_DISABLE_XET=1: files of repositories then
travel by LFS; those of buckets always travel by hf_xet, which takes a folder for its server (`local://`).

    POST /control/refuse   [{"path": regex, "status": 403, "message": "…", "times": 1}, …]: refuse such requests; with
                           "answer": "…", that is the whole body; with "after": true, it is done all the same
    POST /control/kill/ID  SIGKILL to a job and all it started
"""

# pyright: reportAttributeAccessIssue=false
# hf_xet is a compiled module without stubs.

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web

TOKEN_HOLDER = {"type": "user", "id": "u1", "name": "ada", "orgs": []}
HARDWARE = [
    {"name": "cpu-basic", "prettyName": "CPU", "cpu": "2 vCPU", "ram": "16 GB", "accelerator": None,
     "unitCostMicroUSD": 167, "unitCostUSD": 0.000167, "unitLabel": "minute"},
    {"name": "h200x2", "prettyName": "2x H200", "cpu": "46 vCPU", "ram": "512 GB", "ephemeralStorage": "6 TB",
     "accelerator": {"type": "gpu", "model": "H200", "quantity": "2", "vram": "282 GB", "manufacturer": "Nvidia"},
     "unitCostMicroUSD": 166667, "unitCostUSD": 0.166667, "unitLabel": "minute"},
]  # fmt: skip
LARGE = (".parquet", ".mp4")
UNPACK = "import sys, tarfile; tarfile.open(sys.argv[1].split('//', 1)[1]).extractall(sys.argv[2], filter='data')"
PYTHON = f"""#!/bin/sh
if [ "$1 $2 $3" = "-m pip install" ]; then
  for last; do :; done
  case "$last" in *file://*) exec {sys.executable} -c "{UNPACK}" "$last" "$HOME/installed";; esac
  echo "this machine reaches no package index: $last" >&2; exit 1
fi
export PYTHONPATH="$HOME/installed/episode-annotator:$HOME/installed/episode-annotator/store"
{sys.executable} -c 'import annotator; print("code:", annotator.__file__)'
exec {sys.executable} "$@"
"""


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class File:
    """A file of a repository: in git, or large and named by its SHA-256."""

    def __init__(self, content: bytes, large: bool) -> None:
        self.content, self.large = content, large
        self.oid = hashlib.sha256(content).hexdigest() if large else git_oid(content)

    def entry(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": git_oid(self.content)}
        lfs = {"oid": self.oid, "size": len(self.content), "pointerSize": 133}
        return entry | ({"lfs": lfs} if self.large else {})


class Repo:
    """A dataset repository: commits from the oldest on, and names for some of them."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, File]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit({})

    def commit(self, files: dict[str, File]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {time.time_ns()}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches["main"] = sha
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, File]]:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return sha, self.commits[sha]


class Job:
    """A job, and the process that it is here."""

    def __init__(self, spec: dict[str, Any], folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.spec, self.folder, self.process = spec, folder, process
        self.cancelled = False

    def describe(self, job_id: str, owner: str) -> dict[str, Any]:
        status = self.process.poll()
        stage = "RUNNING" if status is None else "COMPLETED" if status == 0 else "ERROR"
        shown = {name: self.spec[name] for name in ("dockerImage", "command", "environment", "flavor", "labels")}
        return shown | {
            "id": job_id, "createdAt": now(), "owner": {"id": "u1", "name": owner, "type": "user"},
            "secrets": dict.fromkeys(self.spec.get("secrets", {}), ""),
            "status": {"stage": "CANCELED" if self.cancelled else stage, "message": None},
        }  # fmt: skip


class Hub:
    """The handlers and what they keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.buckets: dict[str, dict[str, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.stores: list[Path] = []
        self.jobs: dict[str, Job] = {}
        self.refusals: list[dict[str, Any]] = []
        self.requests = (folder / "requests.jsonl").open("a", encoding="utf-8")
        self.blob_lock = asyncio.Lock()
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").write_text(PYTHON)
        (folder / "bin" / "python3").chmod(0o755)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30, middlewares=[self.record])
        get, post = app.router.add_get, app.router.add_post
        get("/api/whoami-v2", self.whoami)
        post("/api/validate-yaml", self.fine)
        post("/api/repos/create", self.create_repo)
        one = "/api/datasets/{owner}/{name}"
        get(one, self.info)
        get(one + "/revision/{revision}", self.info)
        get(one + "/refs", self.refs)
        get(one + "/auth-check/write", self.fine)
        get(one + "/tree/{revision}", self.tree)
        post(one + "/preupload/{revision}", self.preupload)
        post(one + "/commit/{revision}", self.commit)
        post(one + "/tag/{revision}", self.tag)
        app.router.add_delete(one + "/tag/{tag}", self.untag)
        post("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self.lfs_batch)
        app.router.add_put("/large/{oid}", self.lfs_put)
        get("/datasets/{owner}/{name}/resolve/{revision}/{path:.*}", self.resolve)
        bucket = "/api/buckets/{owner}/{name}"
        post(bucket, self.create_bucket)
        get(bucket, self.bucket_info)
        post(bucket + "/batch", self.bucket_batch)
        get(bucket + "/tree/{prefix:.*}", self.bucket_tree)
        get(bucket + "/xet-{kind}-token", self.xet_token)
        get("/buckets/{owner}/{name}/resolve/{path:.*}", self.bucket_resolve)
        get("/api/jobs/hardware", self.hardware)
        post("/api/jobs/{owner}", self.run_job)
        get("/api/jobs/{owner}", self.list_jobs)
        get("/api/jobs/{owner}/{id}", self.inspect_job)
        get("/api/jobs/{owner}/{id}/logs", self.job_logs)
        post("/api/jobs/{owner}/{id}/cancel", self.cancel_job)
        post("/control/refuse", self.refuse)
        post("/control/kill/{id}", self.kill_job)
        return app

    @web.middleware
    async def record(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        line = {
            "at": time.time(), "method": request.method, "path": request.path_qs, "headers": dict(request.headers),
            "body": body.decode("latin-1"),
        }  # fmt: skip
        self.requests.write(json.dumps(line) + "\n")
        self.requests.flush()
        for rule in self.refusals:
            if re.search(rule["path"], f"{request.method} {request.path_qs}") and rule.get("times", 1):
                rule["times"] = rule.get("times", 1) - 1
                if rule.get("after"):
                    await handler(request)
                if rule.get("answer") is not None:
                    return web.Response(text=rule["answer"], status=rule["status"])
                return web.json_response({"error": rule["message"]}, status=rule["status"])
        if "Authorization" not in request.headers and not request.path.startswith(("/control", "/large")):
            return web.json_response({"error": "Invalid username or password."}, status=401)
        return await handler(request)

    async def refuse(self, request: web.Request) -> web.Response:
        self.refusals = await request.json()
        return web.Response()

    async def whoami(self, _: web.Request) -> web.Response:
        return web.json_response(TOKEN_HOLDER)

    async def fine(self, _: web.Request) -> web.Response:
        return web.json_response({"warnings": [], "errors": []})

    # Dataset repositories

    def repo(self, request: web.Request) -> Repo:
        found = self.repos.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        if found is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return found

    async def create_repo(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = f"{asked.get('organization') or TOKEN_HOLDER['name']}/{asked['name']}"
        known = name in self.repos
        if not known:
            self.repos[name] = Repo(bool(asked.get("private")) or asked.get("visibility") == "private")
        return web.json_response({"url": f"{self.url}/datasets/{name}", "id": name}, status=409 if known else 200)

    async def info(self, request: web.Request) -> web.Response:
        repo = self.repo(request)
        sha, files = repo.at(request.match_info.get("revision", "main"))
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        return web.json_response({
            "_id": "x", "id": name, "sha": sha, "private": repo.private, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in files],
        })  # fmt: skip

    async def refs(self, request: web.Request) -> web.Response:
        repo = self.repo(request)

        def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in names.items()]

        return web.json_response(
            {"converts": [], "branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags)}
        )

    async def tree(self, request: web.Request) -> web.Response:
        _, files = self.repo(request).at(request.match_info["revision"])
        return web.json_response([file.entry(path) for path, file in sorted(files.items())])

    async def preupload(self, request: web.Request) -> web.Response:
        _, files = self.repo(request).at(request.match_info["revision"])
        answers: list[dict[str, Any]] = []
        for one in (await request.json())["files"]:
            mode = "lfs" if one["path"].endswith(LARGE) else "regular"
            held = files.get(one["path"])
            answers.append(
                {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": held.oid if held else None}
            )
        return web.json_response({"files": answers})

    async def lfs_batch(self, request: web.Request) -> web.Response:
        objects: list[dict[str, Any]] = []
        for one in (await request.json())["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}
            objects.append(one | ({} if one["oid"] in self.large else upload))
        return web.json_response({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request: web.Request) -> web.Response:
        content = await request.read()
        assert hashlib.sha256(content).hexdigest() == request.match_info["oid"]
        self.large[request.match_info["oid"]] = content
        return web.Response()

    async def commit(self, request: web.Request) -> web.Response:
        repo = self.repo(request)
        sha, files = repo.at(request.match_info["revision"])
        files = dict(files)
        header, *operations = [json.loads(line) for line in (await request.text()).splitlines()]
        if header["value"].get("parentCommit") not in (None, sha):
            return web.json_response(
                {"error": "A commit has happened since. Please refresh and try again."}, status=412
            )
        for one in operations:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif one["key"] == "lfsFile":
                files[value["path"]] = File(self.large[value["oid"]], large=True)
            else:
                files.pop(value["path"])
        sha = repo.commit(files)
        return web.json_response(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/c/{sha}", "hookOutput": ""}
        )

    async def tag(self, request: web.Request) -> web.Response:
        repo = self.repo(request)
        name = (await request.json())["tag"]
        if name in repo.tags:
            return web.json_response({"error": "the tag exists"}, status=409)
        repo.tags[name], _ = repo.at(request.match_info["revision"])
        return web.Response(status=201)

    async def untag(self, request: web.Request) -> web.Response:
        self.repo(request).tags.pop(request.match_info["tag"])
        return web.Response(status=204)

    async def resolve(self, request: web.Request) -> web.Response:
        sha, files = self.repo(request).at(request.match_info["revision"])
        file = files.get(request.match_info["path"])
        if file is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))} if file.large else {}
        return web.Response(body=file.content, headers={"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', **linked})

    # Buckets. hf_xet locks a `local://` folder while it writes there, so that each writer gets a folder of its own,
    # and each reader one that holds everything.

    def bucket(self, request: web.Request) -> dict[str, str]:
        found = self.buckets.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        if found is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return found

    async def create_bucket(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        known = name in self.buckets
        self.buckets.setdefault(name, {})
        return web.json_response({"url": f"{self.url}/buckets/{name}"}, status=409 if known else 200)

    async def bucket_info(self, request: web.Request) -> web.Response:
        files = self.bucket(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        return web.json_response({"id": name, "private": True, "createdAt": now(), "size": 0, "totalFiles": len(files)})

    async def xet_token(self, request: web.Request) -> web.Response:
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="xet-"))
        if request.match_info["kind"] == "write":
            self.stores.append(folder)
        else:
            await asyncio.to_thread(_fill_xet, folder, list(self.blobs.values()))
        at, until = f"local://{folder}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": at, "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": str(until)}
        return web.json_response({"casUrl": at, "accessToken": "x", "exp": until}, headers=headers)

    async def blob(self, xet_hash: str) -> bytes:
        async with self.blob_lock:
            for folder in reversed(self.stores):
                if xet_hash not in self.blobs:
                    found = await asyncio.to_thread(_read_xet, folder, xet_hash)
                    if found is not None:
                        self.blobs[xet_hash] = found
        return self.blobs[xet_hash]

    async def bucket_batch(self, request: web.Request) -> web.Response:
        files = self.bucket(request)
        operations = [json.loads(line) for line in (await request.text()).splitlines()]
        for one in operations:
            assert one["type"] == "addFile", "a bucket only ever gains files"
            assert one["path"] not in files or files[one["path"]] == one["xetHash"], "a file of a bucket was changed"
            await self.blob(one["xetHash"])
            files[one["path"]] = one["xetHash"]
        done = len(operations)
        return web.json_response({"success": True, "processed": done, "succeeded": done, "failed": []})

    async def bucket_tree(self, request: web.Request) -> web.Response:
        files, prefix = self.bucket(request), request.match_info["prefix"]
        return web.json_response([
            {"type": "file", "path": path, "size": len(self.blobs[xet]), "xetHash": xet, "mtime": now()}
            for path, xet in sorted(files.items()) if path.startswith(prefix)
        ])  # fmt: skip

    async def bucket_resolve(self, request: web.Request) -> web.Response:
        xet = self.bucket(request).get(request.match_info["path"])
        if xet is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        route = f"{self.url}/api/buckets/{request.match_info['owner']}/{request.match_info['name']}/xet-read-token"
        headers = {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route, "X-Linked-Size": str(len(self.blobs[xet]))}
        return web.Response(body=self.blobs[xet], headers=headers)

    # Jobs

    async def hardware(self, _: web.Request) -> web.Response:
        return web.json_response(HARDWARE)

    async def run_job(self, request: web.Request) -> web.Response:
        spec, job_id = await request.json(), f"job{len(self.jobs)}"
        folder = self.folder / "jobs" / job_id
        folder.mkdir(parents=True)
        command = [self.mounted(word, spec, folder) for word in spec["command"]]
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder),
            "HF_HOME": str(folder / "home"), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "NO_COLOR": "1",
        }  # fmt: skip
        environment |= spec.get("environment", {}) | spec.get("secrets", {})
        with (folder / "output").open("wb") as output:
            process = await asyncio.to_thread(
                subprocess.Popen, command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.jobs[job_id] = Job(spec, folder, process)
        return web.json_response(self.jobs[job_id].describe(job_id, request.match_info["owner"]))

    def mounted(self, word: str, spec: dict[str, Any], folder: Path) -> str:
        """Put what is in a bucket where a job would find it, and say where that is here."""
        for volume in spec.get("volumes", []):
            here = folder / "mount"
            for path, xet in self.buckets[volume["source"]].items():
                (here / path).parent.mkdir(parents=True, exist_ok=True)
                (here / path).write_bytes(self.blobs[xet])
            word = word.replace(volume["mountPath"], str(here))
        return word

    async def list_jobs(self, request: web.Request) -> web.Response:
        owner = request.match_info["owner"]
        return web.json_response([job.describe(job_id, owner) for job_id, job in self.jobs.items()])

    def job(self, request: web.Request) -> Job:
        found = self.jobs.get(request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "JobNotFound"})
        return found

    async def inspect_job(self, request: web.Request) -> web.Response:
        return web.json_response(self.job(request).describe(request.match_info["id"], request.match_info["owner"]))

    async def job_logs(self, request: web.Request) -> web.StreamResponse:
        """Send what there is, then a sign of life and what is new until the job ends, as the Hub does."""
        job, sent, going = self.job(request), 0, True
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while going:
            going = job.process.poll() is None
            lines = (job.folder / "output").read_text().splitlines()
            for line in lines[sent:]:
                await response.write(b"data: " + json.dumps({"timestamp": now(), "data": line}).encode() + b"\n\n")
            sent = len(lines)
            await response.write(b": keep-alive\n\n")
            await asyncio.sleep(0.1)
        await response.write_eof()
        return response

    async def cancel_job(self, request: web.Request) -> web.Response:
        job = self.job(request)
        job.cancelled = True
        _signal(job, signal.SIGTERM)
        return web.json_response(job.describe(request.match_info["id"], request.match_info["owner"]))

    async def kill_job(self, request: web.Request) -> web.Response:
        _signal(self.job(request), signal.SIGKILL)
        await asyncio.to_thread(self.job(request).process.wait)
        return web.Response()


def _signal(job: Job, number: int) -> None:
    if job.process.poll() is None:
        os.killpg(job.process.pid, number)


def _fill_xet(folder: Path, contents: list[bytes]) -> None:
    import hf_xet

    with hf_xet.XetSession().new_upload_commit(endpoint=f"local://{folder}") as upload:
        for content in contents:
            upload.start_upload_bytes(content, sha256=hf_xet.SKIP_SHA256)


def _read_xet(folder: Path, xet_hash: str) -> bytes | None:
    """Read a file out of what a writer left, from a copy: the writer may still hold the lock."""
    import shutil

    import hf_xet

    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, f"{copy}/store")
        out = Path(copy) / "out"
        try:
            with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{copy}/store") as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash), str(out))
            # What is not there may come back as an empty file.
            return out.read_bytes() if hf_xet.hash_files([str(out)])[0].hash == xet_hash else None
        except (OSError, RuntimeError):
            return None


async def _serve(folder: Path) -> None:
    hub = Hub(folder)
    runner = web.AppRunner(hub.app(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(hub.url, flush=True)
    parent = os.getppid()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)
    for job in hub.jobs.values():
        _signal(job, signal.SIGKILL)
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    asyncio.run(_serve(parser.parse_args().folder))
