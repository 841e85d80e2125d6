"""What can be asked of Dagster's page about itself, as its own script asks it: one query a subject."""

from typing import Final

REPOSITORY: Final = '{repositoryName: "__repository__", repositoryLocationName: "kb_pipeline"}'

QUESTIONS: Final = {
    "the instance": """{ instance { info runLauncher { name } daemonHealth { allDaemonStatuses {
        daemonType healthy lastHeartbeatErrors { message stack } } } } }""",
    "runs": """{ runsOrError { ... on Runs { results { runId runConfigYaml tags { key value }
        eventConnection(limit: 1000) { events {
            __typename
            ... on MessageEvent { message }
            ... on ExecutionStepFailureEvent { error { message stack causes { message stack } } }
            ... on MaterializationEvent { metadataEntries { label ... on TextMetadataEntry { text } } }
        } } } } } }""",
    "sensors": f"""{{ sensorsOrError(repositorySelector: {REPOSITORY}) {{ ... on Sensors {{ results {{
        name sensorState {{ ticks {{ status skipReason cursor error {{ message stack }}
            logEvents {{ events {{ message }} }} }} }} }} }} }} }}""",
    "resources": f"""{{ allTopLevelResourceDetailsOrError(repositorySelector: {REPOSITORY}) {{
        ... on ResourceDetailsList {{ results {{
            name description configFields {{ name defaultValueAsJson }}
            configuredValues {{ key value type }} }} }} }} }}""",
    "the location": """{ workspaceOrError { ... on Workspace { locationEntries { name
        displayMetadata { key value }
        locationOrLoadError { __typename ... on PythonError { message stack } } } } } }""",
}
