"""The pages with which the science team watches and steers; moderators see volunteers and finds only."""

from fastapi import APIRouter

from greenpea.site.team import finds, health, progress, rounds, subjects, transfers, volunteers, workflows

router = APIRouter(include_in_schema=False)
for _part in (progress, rounds, subjects, volunteers, workflows, transfers, finds, health):
    router.include_router(_part.router)
