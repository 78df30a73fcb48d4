"""The memory files of agents, by convention: one preset for each agent, with the source that names its files.

Every glob begins with a fixed part. So the presets never cause a walk over a whole project or a whole home: a scan
lists only the project's own folder and the few folders named here. `nested` names the files that an agent also reads
in the folders of a project; `atlas_sdk.files.nested` finds those. `docs/memory-files.md` shows the table.
"""

from typing import Final, Literal

from attrs import frozen

__all__ = ["PRESETS", "Kind", "Preset"]

#: `claude_md`: instructions for any agent. `scratch`: notes that agents write for themselves.
Kind = Literal["claude_md", "scratch"]


@frozen(kw_only=True)
class Preset:
    """The memory files of one agent, or of one convention."""

    #: The documentation that names the files.
    source: str
    #: Files in a project, relative to its folder.
    instructions: tuple[str, ...] = ()
    #: Files in a project that the agent writes for itself.
    notes: tuple[str, ...] = ()
    #: The globs of `instructions` and `notes` that also count in every other folder of a project.
    nested: tuple[str, ...] = ()
    #: The user's own files, relative to the home folder. The list never leads to credentials, transcripts or caches.
    user_instructions: tuple[str, ...] = ()
    user_notes: tuple[str, ...] = ()

    @property
    def globs(self) -> tuple[str, ...]:
        """The globs in a project."""
        return self.instructions + self.notes

    @property
    def user_globs(self) -> tuple[str, ...]:
        """The globs in a home folder."""
        return self.user_instructions + self.user_notes


_CLAUDE = (
    ".claude/CLAUDE.md",
    ".claude/rules/**/*.md",
    ".claude/commands/**/*.md",
    ".claude/agents/**/*.md",
    ".claude/skills/**/*.md",
    ".claude/output-styles/**/*.md",
)
_CLAUDE_NOTES = (".claude/agent-memory/**/*.md", ".claude/agent-memory-local/**/*.md")
_ROO = (
    ".roo/rules/**/*.md",
    ".roo/rules/**/*.txt",
    ".roo/rules-*/**/*.md",
    ".roo/rules-*/**/*.txt",
    ".roo/commands/**/*.md",
)
_KILO = (".kilocode/rules/**/*.md", ".kilocode/rules-*/**/*.md", ".kilocode/workflows/**/*.md")
_OPENCLAW = (
    *("AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md", "HEARTBEAT.md", "BOOTSTRAP.md", "BOOT.md"),
    "skills/**/*.md",
)

PRESETS: Final[dict[str, Preset]] = {
    "claude": Preset(
        source="Claude Code docs: memory, sub-agents, skills, slash commands, output styles",
        instructions=("CLAUDE.md", "CLAUDE.local.md", *_CLAUDE),
        notes=_CLAUDE_NOTES,
        nested=("CLAUDE.md", "CLAUDE.local.md", *_CLAUDE, *_CLAUDE_NOTES),
        user_instructions=("CLAUDE.md", "CLAUDE.local.md", *_CLAUDE),
        user_notes=(".claude/agent-memory/**/*.md", ".claude/projects/*/memory/**/*.md"),
    ),
    "agents-md": Preset(
        source="agents.md; Codex docs: AGENTS.override.md; Roo Code docs: AGENTS.local.md; agentskills.io",
        instructions=("AGENTS.md", "AGENTS.override.md", "AGENTS.local.md", "AGENT.md", ".agents/skills/**/*.md"),
        nested=("AGENTS.md", "AGENTS.override.md", "AGENTS.local.md", "AGENT.md", ".agents/skills/**/*.md"),
        user_instructions=("AGENTS.md", ".agents/AGENTS.md", ".config/AGENTS.md", ".agents/skills/**/*.md"),
    ),
    "gemini": Preset(
        source="Gemini CLI docs: GEMINI.md, memory files, custom commands, skills",
        instructions=("GEMINI.md", ".gemini/GEMINI.md", ".gemini/commands/**/*.toml", ".gemini/skills/**/*.md"),
        nested=("GEMINI.md", ".gemini/GEMINI.md"),
        user_instructions=("GEMINI.md", ".gemini/GEMINI.md", ".gemini/commands/**/*.toml", ".gemini/skills/**/*.md"),
        user_notes=(".gemini/MEMORY.md", ".gemini/tmp/*/memory/**/*.md"),
    ),
    "cursor": Preset(
        source="Cursor docs: rules, commands; `.cursorrules` is the older form",
        instructions=(".cursorrules", ".cursor/rules/**/*.mdc", ".cursor/rules/**/*.md", ".cursor/commands/**/*.md"),
        nested=(".cursorrules", ".cursor/rules/**/*.mdc", ".cursor/rules/**/*.md"),
        user_instructions=(".cursor/rules/**/*.mdc", ".cursor/rules/**/*.md", ".cursor/commands/**/*.md"),
    ),
    "copilot": Preset(
        source="GitHub docs: repository custom instructions, prompt files, custom agents",
        instructions=(
            ".github/copilot-instructions.md",
            ".github/instructions/**/*.instructions.md",
            ".github/prompts/**/*.prompt.md",
            ".github/agents/**/*.md",
        ),
        user_instructions=(".copilot/copilot-instructions.md", ".copilot/agents/**/*.md"),
    ),
    "codex": Preset(
        source="Codex docs: AGENTS.md, memories, custom prompts, skills",
        instructions=(".codex/AGENTS.md", ".codex/prompts/**/*.md", ".codex/skills/**/*.md"),
        user_instructions=(
            ".codex/AGENTS.md",
            ".codex/AGENTS.override.md",
            ".codex/instructions.md",
            ".codex/prompts/**/*.md",
            ".codex/skills/**/*.md",
        ),
        user_notes=(".codex/memories/**/*.md",),
    ),
    "windsurf": Preset(
        source="Windsurf docs: memories and rules, workflows",
        instructions=(".windsurfrules", ".windsurf/rules/**/*.md", ".windsurf/workflows/**/*.md"),
        nested=(".windsurfrules", ".windsurf/rules/**/*.md", ".windsurf/workflows/**/*.md"),
        user_instructions=(".codeium/windsurf/memories/*.md",),
    ),
    "cline": Preset(
        source="Cline docs: rules, workflows, configuration",
        instructions=(".clinerules", ".clinerules/**/*.md", ".clinerules/**/*.txt", ".cline/rules/**/*.md"),
        user_instructions=(
            ".cline/rules/**/*.md",
            "Cline/Rules/**/*.md",
            "Documents/Cline/Rules/**/*.md",
            "Documents/Cline/Workflows/**/*.md",
        ),
    ),
    "roo": Preset(
        source="Roo Code docs: custom instructions",
        instructions=(".roorules", ".roorules-*", *_ROO),
        user_instructions=_ROO,
    ),
    "kilo": Preset(
        source="Kilo Code docs: custom rules, workflows",
        instructions=(".kilocoderules", *_KILO),
        user_instructions=_KILO,
    ),
    "kiro": Preset(
        source="Kiro docs: steering",
        instructions=(".kiro/steering/**/*.md",),
        user_instructions=(".kiro/steering/**/*.md",),
    ),
    "junie": Preset(
        source="Junie docs: guidelines",
        instructions=(".junie/guidelines.md", ".junie/AGENTS.md"),
        user_instructions=(".junie/guidelines.md",),
    ),
    "trae": Preset(
        source="Trae docs: rules",
        instructions=(".trae/rules/**/*.md",),
        nested=(".trae/rules/**/*.md",),
        user_instructions=(".trae/user_rules.md", ".trae/user_rules/**/*.md"),
    ),
    "continue": Preset(
        source="Continue docs: rules, prompts",
        instructions=(".continuerules", ".continue/rules/**/*.md", ".continue/prompts/**/*.md"),
        user_instructions=(".continue/rules/**/*.md", ".continue/prompts/**/*.md"),
    ),
    "augment": Preset(
        source="Augment docs: rules and guidelines",
        instructions=(".augment-guidelines", ".augment/guidelines.md", ".augment/rules/**/*.md"),
        nested=(".augment/rules/**/*.md",),
        user_instructions=(".augment/user-guidelines.md", ".augment/rules/**/*.md"),
    ),
    "goose": Preset(
        source="goose docs: goosehints, memory extension",
        instructions=(".goosehints", ".goosehints.local"),
        notes=(".goose/memory/**/*.txt", ".goose/memory/**/*.md"),
        nested=(".goosehints",),
        user_instructions=(".config/goose/.goosehints",),
        user_notes=(".config/goose/memory/**/*.txt", ".config/goose/memory/**/*.md"),
    ),
    "opencode": Preset(
        source="OpenCode docs: rules, agents, commands, skills",
        instructions=(
            ".opencode/AGENTS.md",
            ".opencode/agent/**/*.md",
            ".opencode/agents/**/*.md",
            ".opencode/command/**/*.md",
            ".opencode/commands/**/*.md",
            ".opencode/skills/**/*.md",
        ),
        user_instructions=(
            ".config/opencode/AGENTS.md",
            ".config/opencode/agent/**/*.md",
            ".config/opencode/agents/**/*.md",
            ".config/opencode/command/**/*.md",
            ".config/opencode/commands/**/*.md",
            ".config/opencode/skills/**/*.md",
        ),
    ),
    "amp": Preset(
        source="Amp manual: AGENTS.md (in a project: the preset agents-md)",
        user_instructions=(".config/amp/AGENTS.md", ".config/amp/skills/**/*.md"),
    ),
    "aider": Preset(source="aider docs: coding conventions", instructions=("CONVENTIONS.md",)),
    "qwen": Preset(
        source="Qwen Code docs: context files",
        instructions=("QWEN.md",),
        nested=("QWEN.md",),
        user_instructions=(".qwen/QWEN.md",),
    ),
    "warp": Preset(source="Warp docs: project rules", instructions=("WARP.md",), nested=("WARP.md",)),
    "zed": Preset(source="Zed docs: rules", instructions=(".rules",)),
    "openclaw": Preset(
        source="OpenClaw docs: agent workspace",
        instructions=_OPENCLAW[1:-1],
        notes=("memory/**/*.md",),
        user_instructions=(
            *(f".openclaw/workspace/{name}" for name in _OPENCLAW),
            *(f".openclaw/workspace-*/{name}" for name in _OPENCLAW),
        ),
        user_notes=(
            ".openclaw/workspace/*.md",
            ".openclaw/workspace/memory/**/*.md",
            ".openclaw/workspace-*/*.md",
            ".openclaw/workspace-*/memory/**/*.md",
        ),
    ),
    "memory-bank": Preset(source="Cline docs: memory bank", notes=("memory-bank/**/*.md",)),
    # There is no specification. HISTORY.md and CHANGELOG.md belong to the project, not to the agent.
    "scratch": Preset(
        source="Anthropic: effective harnesses for long-running agents; files seen in practice",
        notes=(
            "claude-progress.txt",
            "progress.md",
            "PROGRESS.md",
            "progress.txt",
            "todo.md",
            "TODO.md",
            "NOTES.md",
            "notes.md",
            "MEMORY.md",
            "STATE.md",
            "WORKING-MEMORY.md",
            "plan.md",
            "PLAN.md",
            "tasks.md",
            "scratch*.md",
            "SCRATCHPAD.md",
            "scratch/**/*.md",
            "scratch/**/*.txt",
            "notes/**/*.md",
            ".planning/**/*.md",
        ),
    ),
}
