"""Decision to response: plans executed, answers sent, requests accounted for."""
