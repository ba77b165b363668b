"""What every experiment uses: findings, context, statistics, figures, the registry."""
