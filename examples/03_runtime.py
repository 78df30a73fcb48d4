"""An agent runtime for two tenants: sign up, sign in, ask a model within limits, keep memory, build, serve a preview.

Run it: python examples/03_runtime.py                        (pip install "atlasengine[auth]")
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from atlas_sdk import Atlas, InvalidToken, NotPermitted, Project, QuotaExceeded, User


class Provider(BaseHTTPRequestHandler):
    """A stand-in for a provider of models, on this machine. One word is one token."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = f"# Rules for {asked['prompt']}: test first, say what you did, ask before you delete anything".split()
        answer = words[: asked["max_tokens"]]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"text": " ".join(answer), "tokens": len(answer)}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the base class
        pass


@contextmanager
def provider() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, prompt: str, *, max_tokens: int) -> tuple[str, int]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", json.dumps({"prompt": prompt, "max_tokens": max_tokens}))
    reply = json.load(connection.getresponse())
    connection.close()
    return reply["text"], reply["tokens"]


def sign_up(atlas: Atlas, name: str, *, tokens: int) -> str:
    """Make a user with limits, sign in, and return the session token."""
    email, password = f"{name}@example.com", secrets.token_urlsafe()
    user = atlas.users.create(email, name=name, password=password)
    atlas.quotas.set_limits(user, tokens=tokens)
    assert atlas.users.authenticate(email, "a guess") is None
    signed_in = atlas.users.authenticate(email, password)
    assert signed_in is not None
    return atlas.sessions.issue(signed_in).token


def answer(tenant: Atlas, user: User, project: Project, port: int) -> None:
    """Do one turn of the agent: reserve tokens, call the model, settle, and keep the answer as a version of memory."""
    try:
        with tenant.quotas.guard(user, tokens=12, min_tokens=4, meta={"model": "stub-1"}) as g:
            text, tokens = ask(port, user.name, max_tokens=g.tokens)
            g.settle(tokens=tokens)
    except QuotaExceeded as refusal:
        print(f"  refused, nothing was charged: {refusal.dimension}, {refusal.remaining} of {refusal.limit} left")
        return
    version = tenant.memory.snapshot(project, "CLAUDE.md", f"{text}\n".encode())
    print(f"  {tokens} tokens, {'the memory is as it was' if version is None else f'version {version.seq} kept'}")


def build_and_serve(tenant: Atlas, user: User, project: Project) -> None:
    with tenant.quotas.guard(user, builds=1), tenant.quotas.slot(user, holder="builder-1"):
        build = tenant.builds.start(tenant.builds.create(project, meta={"commit": "1f3a"}), container_id="builder-1")
        tenant.builds.append_log(build, "Step 1/1: COPY . .\n")
        build = tenant.builds.succeed(build, image_id=f"{user.name}:1")
    preview = tenant.previews.create(project, host=f"{user.name}.preview.example.com", container_port=8000)
    preview = tenant.previews.allocate_port(preview)
    preview = tenant.previews.set_status(preview, "running", health="healthy")
    print(f"  build {build.status}, preview {preview.status}, has a port: {preview.host_port is not None}")


def serve(atlas: Atlas, token: str, port: int) -> Project:
    """Serve requests of one tenant. The token names the user, and `tenant` cannot reach another user's rows."""
    user = atlas.users.get(atlas.sessions.verify(token).user_id)
    tenant = atlas.with_context(ip="127.0.0.1", user_agent="runtime/1").as_user(user)
    print(f"{user.name}:")
    project = tenant.projects.create(user, path=f"/srv/{user.name}", language="python")
    for _ in range(3):
        answer(tenant, user, project, port)
    tenant.memory.checkpoint(project, "after-three-turns")
    build_and_serve(tenant, user, project)
    summary = tenant.users.usage_summary(user)
    print(f"  used {summary.tokens_used} of {summary.tokens_limit} tokens; {summary.project_count} project,", end=" ")
    print(f"{summary.active_previews} preview, {summary.builds_24h} build; {len(tenant.events.recent(user))} events")
    return project


def main() -> None:
    # The database is removed at the end. In your own program, use Atlas.open().
    with Atlas.temporary() as atlas, provider() as port:
        tokens = {name: sign_up(atlas, name, tokens=limit) for name, limit in (("ada", 1000), ("bob", 20))}
        projects = {name: serve(atlas, token, port) for name, token in tokens.items()}

        ada, bob = (atlas.users.get(atlas.sessions.verify(token).user_id) for token in tokens.values())
        try:
            atlas.as_user(bob).memory.read(projects["ada"], "CLAUDE.md")
        except NotPermitted:
            print("bob cannot read ada's memory")
        atlas.sessions.revoke_all(ada)
        try:
            atlas.sessions.verify(tokens["ada"])
        except InvalidToken:
            print("ada is signed out everywhere")
        for user in (ada, bob):
            gone = atlas.users.delete(user)
            assert gone is not None
            # Each version is an entry, and each version in a checkpoint is another one.
            entries = f"{gone.memory_snapshots} entries of memory"
            print(f"{user.name} left: {entries}, {gone.builds} build, {gone.previews} preview")


if __name__ == "__main__":
    main()
