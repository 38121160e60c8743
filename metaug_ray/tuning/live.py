class LiveView:
    def __init__(self, settings): self.last=None
    def __enter__(self): return self
    def __exit__(self,*a): pass
    def update(self, points, finals, to_come, concurrency, progress, seconds):
        line = " ".join(f"{r.name}:{r.state}:{[round(v,2) for _,v in r.series]}{r.reason}" for p in points for r in p.runs)+" | "+" ".join(f"{r.name}:{r.state}" for r in finals)
        if line!=self.last: print(line, to_come, progress, round(seconds,1), flush=True)
        self.last=line
