"""Two agents write one file of notes at once. Every version is kept, in the order of the commits.

Run it: python examples/02_asyncio.py
"""

import asyncio
import tempfile

from atlas_sdk import AsyncAtlas, Project

AGENTS = ("planner", "coder")


async def work(atlas: AsyncAtlas, project: Project, agent: str) -> None:
    for step in range(1, 6):
        note = f"{agent} did step {step}\n".encode()
        await atlas.memory.snapshot(project, "notes.md", note, context={"agent": agent, "step": step})


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The database is removed at the end. In your own program, use AsyncAtlas.open().
        async with AsyncAtlas.temporary() as atlas:
            project = await atlas.projects.create(await atlas.users.local(), path=folder)
            await asyncio.gather(*(work(atlas, project, agent) for agent in AGENTS))
            versions = await atlas.memory.history(project, "notes.md")
            print(f"{len(versions)} versions, numbered {versions[-1].seq} to {versions[0].seq}")
            for agent in AGENTS:
                last = next(v for v in versions if v.context is not None and v.context["agent"] == agent)
                print(f"the last word of {agent}: {(await atlas.memory.content(last)).decode().strip()}")


if __name__ == "__main__":
    asyncio.run(main())
